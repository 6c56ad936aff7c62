"""tiktoken_speed.py TEXT VOCABULARY_FOLDER THREADS: how fast tiktoken encodes a text, what bench_data compares with.

Prints a JSON object: its version, how many tokens the text has, and MB/s (10^6 bytes of UTF-8) with one thread and with
THREADS. The text is passed in pieces of a million characters, as documents, in each way that tiktoken has (Python lists,
or NumPy arrays where it can); the fastest of RUNS counts. Its vocabulary comes from encoder.json and vocab.bpe in the
folder, as it would download others.
"""

import importlib.util
import json
import sys
import time

import tiktoken
import tiktoken.load

RUNS = 3
# Of GPT-2, with possessive repetitions, which find the same words: tiktoken's own form of it.
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"


def fastest(encode):
    """The least seconds, and what came out."""
    seconds = []
    for _ in range(RUNS):
        begin = time.perf_counter()
        result = encode()
        seconds.append(time.perf_counter() - begin)
    return min(seconds), result


def main():
    path, folder, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    ranks = tiktoken.load.data_gym_to_mergeable_bpe_ranks(
        vocab_bpe_file=f"{folder}/vocab.bpe", encoder_json_file=f"{folder}/encoder.json"
    )
    encoding = tiktoken.Encoding(
        "gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256}
    )
    with open(path, encoding="utf-8", errors="replace", newline="") as file:
        text = file.read()
    size = len(text.encode())
    documents = [text[i : i + 1_000_000] for i in range(0, len(text), 1_000_000)]
    one, tokens = fastest(lambda: [encoding.encode_ordinary(document) for document in documents])
    if hasattr(encoding, "encode_to_numpy") and importlib.util.find_spec("numpy"):
        one = min(one, fastest(lambda: [encoding.encode_to_numpy(d, disallowed_special=()) for d in documents])[0])
    every, _ = fastest(lambda: encoding.encode_ordinary_batch(documents, num_threads=threads))
    figures = {
        "version": tiktoken.__version__,
        "tokens": sum(len(t) for t in tokens),
        "one core, MB/s": round(size / one / 1e6, 2),
        "all cores, MB/s": round(size / every / 1e6, 2),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
