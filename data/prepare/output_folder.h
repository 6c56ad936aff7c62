/* output_folder.h: the folder that prepare_data writes to: which of its files earlier runs made, what is in the way of
 * a new run, and putting new files in the place of old ones.
 *
 * tokens.json lists the files that belong to it: "files" is an object of names and sizes in bytes. A file is
 * prepare_data's own only if a list has its name and its size. Only own files are replaced or removed; any other file
 * with a name that token files have is in the way. tokens.json of version 0.1.0 has no list: then the files with the
 * names of its format are own if they hold exactly as many tokens as it records.
 *
 * While files are replaced there is no tokens.json, since token files next to one belong to it. The old one is
 * .tokens.json.old meanwhile, and the new one .tokens.json.tmp. A run that was stopped there leaves both, and the next
 * one reads their lists too. data/prepare/token_folder.py follows the same rules for the scripts. */
#ifndef MARS_DATA_PREPARE_OUTPUT_FOLDER_H
#define MARS_DATA_PREPARE_OUTPUT_FOLDER_H

#include "data/prepare/shard_writer.h"

struct cJSON;

EXTERN_C_BEGIN

typedef struct OutputFolder OutputFolder;

/* Makes the folder if it is missing, locks it against other runs until output_folder_close(), and reads what is in it.
 * `vocabulary` is the folder whose vocabulary files will be copied, or NULL. Fails, and has changed nothing, if another
 * run writes to the folder or any file is in the way. */
bool output_folder_open(OutputFolder **folder, const char *path, const char *vocabulary, Error *error);
void output_folder_close(OutputFolder *folder);

/* Whether this input file ("-": standard input), by whatever name, is an own file, which publishing would replace. */
bool output_folder_owns(const OutputFolder *folder, const char *input);

/* Replaces the own files by those of the two finished writers, the vocabulary, and a tokens.json of this description,
 * to which the list is added. Fails before it changes anything if a file is in the way by now. */
bool output_folder_publish(OutputFolder *folder, struct cJSON *description, ShardWriter *train, ShardWriter *val,
                           Error *error);

EXTERN_C_END

#endif
