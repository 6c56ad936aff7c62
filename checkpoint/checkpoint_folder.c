/* checkpoint_folder.c: the folder of a run's checkpoints before the run begins: whether checkpoints can be saved there,
 * what `latest` names, and removing the checkpoints of an earlier run. People copy, move and archive these folders, so
 * they may be read-only, or have a folder in the place of a link. */
#include "checkpoint/checkpoint.h"

#include <cjson/cJSON.h>
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint/checkpoint_layout.h"
#include "util/files.h"

/* The probe does in small what a save does: it makes a folder with a file, and a link, and renames both. */
#define PROBE TEMPORARY_PREFIX "probe_%d"

/* ---- `latest` ---- */

/* The step of the checkpoint in a folder, or -1. */
static int64_t step_in(const char *folder) {
    Error error;
    cJSON *trainer = checkpoint_read_trainer(folder, &error);
    int64_t step = trainer ? checkpoint_integer(trainer, "step") : -1;
    cJSON_Delete(trainer);
    return step;
}

/* A free path for the folder `latest`: that of its step, else one that no checkpoint has. The caller frees it. */
static char *place_of_copy(const char *checkpoints, int64_t step) {
    char *path = step >= 0 ? format_string("%s/" STEP_FORMAT, checkpoints, step) : NULL;
    for (int number = 1; !path || files_exists(path); number++) {
        free(path);
        path = format_string("%s/" LATEST_LINK ".copy%d", checkpoints, number);
    }
    return path;
}

/* A link can take the place of a link or a file, but not of a folder. Removes nothing: the folder gets another name,
 * and the link names its step. */
static bool make_room_for_link(const char *checkpoints, Error *error) {
    struct stat status;
    char *latest = format_string("%s/" LATEST_LINK, checkpoints);
    bool ok = true;
    if (lstat(latest, &status) == 0 && S_ISDIR(status.st_mode)) {
        int64_t step = step_in(latest);
        char *place = place_of_copy(checkpoints, step), name[CHECKPOINT_NAME_LENGTH];
        snprintf(name, sizeof name, STEP_FORMAT, step);
        ok = files_rename(latest, place, error) && (step < 0 || checkpoint_point_latest(checkpoints, name, error));
        if (ok) warn("%s was a folder instead of a link, as cp -L makes it: renamed to %s", latest, place);
        free(place);
    }
    free(latest);
    return ok;
}

bool checkpoint_repair_latest(const char *out_dir, const char *path, Error *error) {
    int count;
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    char *checkpoints = format_string("%s/" CHECKPOINTS_FOLDER, out_dir);
    CheckpointFolder *folders = checkpoint_folders(checkpoints, &count);
    bool is_right = checkpoint_latest(checkpoints, folders, count) >= 0 || strcmp(name, LATEST_LINK) == 0;
    bool ok = is_right || checkpoint_point_latest(checkpoints, name, error);
    free(folders);
    free(checkpoints);
    return ok;
}

/* ---- permissions ---- */

/* Makes the folders of checkpoints writable: a folder that cannot be written to cannot be removed either. */
static bool make_removable(const char *checkpoints, Error *error) {
    int count;
    CheckpointFolder *folders = checkpoint_folders(checkpoints, &count);
    bool ok = true;
    for (int i = 0; ok && i < count; i++) {
        struct stat status;
        char *path = format_string("%s/%s", checkpoints, folders[i].name);
        if (!files_is_folder(path))
            ok = error_set(error, "%s should be a folder with a checkpoint; remove it or give it another name", path);
        else if (access(path, W_OK | X_OK) != 0 &&
                 (stat(path, &status) != 0 || chmod(path, status.st_mode | S_IRWXU) != 0))
            ok = error_set(error,
                           "%s is read-only (%s), so it could not be removed when newer checkpoints take its place; "
                           "make it writable or move it away",
                           path, strerror(errno));
        free(path);
    }
    free(folders);
    return ok;
}

/* Writes the file without a sync: this does not test the disk. */
static bool write_small_file(const char *path) {
    int descriptor = FILES_RETRY(open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
    if (descriptor < 0) return false;
    bool ok = files_write_all(descriptor, "", 1);
    return files_close(descriptor) && ok;
}

static bool try_a_save(const char *checkpoints, Error *error) {
    char *folder = format_string("%s/" PROBE, checkpoints, (int)getpid()), *file = format_string("%s/file", folder);
    char *link = format_string("%s/link", folder), *new_link = format_string("%s/new_link", folder);
    char *new_folder = format_string("%s_renamed", folder);
    const char *problem = NULL;
    if (FILES_RETRY(mkdir(folder, 0777)) != 0)
        problem = "make a folder";
    else if (!write_small_file(file))
        problem = "write a file";
    else if (FILES_RETRY(symlink("file", link)) != 0)
        problem = "make a symbolic link";
    else if (!files_rename(link, new_link, NULL) || !files_rename(folder, new_folder, NULL))
        problem = "rename a file";
    else if (!files_remove_tree(new_folder, NULL))
        problem = "remove a folder";
    bool ok = !problem || error_set(error,
                                    "cannot save checkpoints in %s: cannot %s there: %s; make it writable or choose "
                                    "another train.out_dir",
                                    checkpoints, problem, strerror(errno));
    if (!ok) files_remove_tree(folder, NULL);
    free(folder);
    free(file);
    free(link);
    free(new_link);
    free(new_folder);
    return ok;
}

bool checkpoint_prepare(const char *out_dir, Error *error) {
    char *checkpoints = format_string("%s/" CHECKPOINTS_FOLDER, out_dir);
    bool is_new = FILES_RETRY(mkdir(checkpoints, 0777)) == 0;
    bool ok = is_new || errno == EEXIST ||
              error_set(error, "cannot make the folder %s: %s; make %s writable or choose another train.out_dir",
                        checkpoints, strerror(errno), out_dir);
    ok = ok && make_room_for_link(checkpoints, error) && make_removable(checkpoints, error) &&
         try_a_save(checkpoints, error);
    if (is_new) FILES_RETRY(rmdir(checkpoints)); /* the first save makes it again */
    free(checkpoints);
    return ok;
}

/* ---- removing ---- */

/* Whether an entry of the folder is a leftover of a save, or `latest` as a link or as a copied checkpoint. */
static bool is_ours(const char *name, const char *path) {
    struct stat status;
    if (strncmp(name, TEMPORARY_PREFIX, strlen(TEMPORARY_PREFIX)) == 0) return true;
    if (strcmp(name, LATEST_LINK) != 0 || lstat(path, &status) != 0) return false;
    return S_ISLNK(status.st_mode) || step_in(path) >= 0;
}

bool checkpoint_remove_all(const char *out_dir, Error *error) {
    int count;
    char *checkpoints = format_string("%s/" CHECKPOINTS_FOLDER, out_dir);
    CheckpointFolder *folders = checkpoint_folders(checkpoints, &count);
    bool ok = true;
    for (int i = 0; ok && i < count; i++) {
        char *path = format_string("%s/%s", checkpoints, folders[i].name);
        ok = files_remove_tree(path, error);
        free(path);
    }
    DIR *directory = files_open_folder(checkpoints);
    for (struct dirent *entry; ok && directory && (entry = readdir(directory));) {
        char *path = format_string("%s/%s", checkpoints, entry->d_name);
        ok = !is_ours(entry->d_name, path) || files_remove_tree(path, error);
        free(path);
    }
    if (directory) closedir(directory);
    FILES_RETRY(rmdir(checkpoints)); /* unless there is something else in it */
    free(folders);
    free(checkpoints);
    return ok;
}
