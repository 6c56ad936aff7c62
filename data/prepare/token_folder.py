"""token_folder.py check FOLDER | publish FOLDER SOURCE: replaces the token files of a data set's folder, and no others.

check fails if FOLDER holds a file with a name that token files have and that prepare_data did not make.

publish moves the output of prepare_data from FOLDER/unfinished/train to FOLDER, in place of what prepare_data made there
before. Where the data set comes divided into training and validation, that is its training half, made with
--val_fraction=0, and FOLDER/unfinished/val holds the other half, made in the same way. tokens.json then names SOURCE.

The rules are those of data/prepare/output_folder.h: only files that tokens.json lists, with the size that it lists, are replaced.
"""

import filecmp
import fnmatch
import json
import os
import shutil
import sys

PATTERNS = "train.bin", "val.bin", "train_*.bin", "val_*.bin"
VOCABULARY = "encoder.json", "vocab.bpe"
NEW, OLD = ".tokens.json.tmp", ".tokens.json.old"


def size(folder, name):
    path = os.path.join(folder, name)
    return os.path.getsize(path) if os.path.isfile(path) else -1


def is_token_file(name):
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in PATTERNS)


def read(folder, name):
    """What the file describes; None if prepare_data did not make it."""
    try:
        with open(os.path.join(folder, name)) as file:
            tokens = json.load(file)
        return tokens if tokens["created_by"].startswith("prepare_data ") else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def unlisted(folder, tokens, split):
    """Of version 0.1.0, which has no list: the files of its format, if they hold the tokens that it records."""
    is_bare = tokens.get("format") == "nanogpt"
    names, found, recorded = [], 0, tokens.get(split + "_tokens", 0)
    while found < recorded and not (is_bare and names):
        name = f"{split}.bin" if is_bare else f"{split}_{len(names):06}.bin"
        if size(folder, name) < 0:
            break
        names.append(name)
        found += (size(folder, name) - (0 if is_bare else 1024)) // 2
    return {(name, size(folder, name)) for name in names} if found == recorded else set()


def own_files(folder):
    """Names and sizes of what prepare_data made."""
    own = set()
    for name in ("tokens.json", NEW, OLD):
        tokens = read(folder, name)
        if tokens and isinstance(tokens.get("files"), dict):
            own |= {(file, bytes) for file, bytes in tokens["files"].items() if is_token_file(file) or file in VOCABULARY}
        elif tokens:
            own |= unlisted(folder, tokens, "train") | unlisted(folder, tokens, "val")
    return own


def check(folder):
    own = own_files(folder)
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        is_own = (name, size(folder, name)) in own
        path, published = os.path.join(folder, name), os.path.join("data/gpt2", name)
        if name == "tokens.json":
            is_in_the_way = read(folder, name) is None
        elif name in VOCABULARY and os.path.isfile(published):
            is_in_the_way = not is_own and not filecmp.cmp(path, published, shallow=False)
        else:
            is_in_the_way = is_token_file(name) and not is_own
        if is_in_the_way:
            sys.exit(f"{path} is in the way: no tokens.json there lists it as made by prepare_data; move it away")


def new_files(folder, tokens):
    """Where each file of the new set is, by its name; adds the validation half to what tokens.json says."""
    train, val = (os.path.join(folder, "unfinished", half) for half in ("train", "val"))
    files = {name: os.path.join(train, name) for name in tokens["files"]}
    if os.path.isdir(val):
        half = read(val, "tokens.json")
        for name in half["files"]:
            if name.startswith("train"):
                files["val" + name[len("train"):]] = os.path.join(val, name)
        tokens["val_from"] = "source"
        tokens["val_tokens"] = half["train_tokens"]
        tokens["documents"] += half["documents"]
    return files


def publish(folder, source):
    tokens = read(os.path.join(folder, "unfinished", "train"), "tokens.json")
    tokens["source"] = [source]
    files = new_files(folder, tokens)
    tokens["files"] = {name: os.path.getsize(path) for name, path in sorted(files.items())}
    check(folder)
    own = own_files(folder)
    description, new, old = (os.path.join(folder, name) for name in ("tokens.json", NEW, OLD))
    with open(new, "w") as file:
        json.dump(tokens, file, indent="\t")
        file.write("\n")
    # Token files next to a tokens.json belong to it, so it goes first and comes last.
    if os.path.exists(description):
        os.replace(description, old)
    for name, bytes in own:
        if name not in files and size(folder, name) == bytes:
            os.remove(os.path.join(folder, name))
    for name, path in files.items():
        os.replace(path, os.path.join(folder, name))
    os.replace(new, description)
    if os.path.exists(old):
        os.remove(old)
    shutil.rmtree(os.path.join(folder, "unfinished"))


if __name__ == "__main__":
    if sys.argv[1] == "check":
        check(sys.argv[2])
    else:
        publish(sys.argv[2], sys.argv[3])
