/* config_fixture.h: what the tests of the config parser share: config files, and loading them with what is expected.
 * Paths of files are good until the next one is written. */
#ifndef MARS_DEV_TEST_CONFIG_CONFIG_FIXTURE_H
#define MARS_DEV_TEST_CONFIG_CONFIG_FIXTURE_H

#include "config/config.h"
#include "dev/test/test.h"

EXTERN_C_BEGIN

/* The path of a valid config with `body` added to one section. */
const char *config_with(const char *section, const char *body);
const char *valid_config(void);

/* A valid config with this optimizer, and `body` in its section; and one with this whole section. */
const char *config_of(const char *optimizer, const char *body);
const char *config_of_section(const char *optimizer);

/* The path of a file with this text. */
const char *file_of(const char *text);

/* Loads with overrides, a list that ends with NULL. */
bool load_config(Config *config, Error *error, const char *path, ...);

/* Loads with one override, or none where it is NULL; fails the test where that is refused. */
Config accepted(const char *path, const char *override);

/* What standard error gets while a config is loaded that must be accepted, with overrides that may be NULL; the caller
 * frees. */
char *warnings_of(Config *config, const char *path, const char *first, const char *second);

/* The config after a way through JSON and back. */
Config reloaded(const Config *config);

void must_hold(const char *text, const char *part);

/* Refused, with a message that starts with `start` and holds the parts (assert_parts()). */
void refuse_by(const char *path, const char *override, const char *start, const char *parts);
/* The same where it starts with the file's name; of a file with this text; with the command line's name, because of an
 * override of a valid config. */
void refuse_file(const char *path, const char *parts);
void refuse_text(const char *text, const char *parts);
void refuse_override(const char *override, const char *parts);

/* Refused, with a message that states four parts (assert_four_parts()). */
void refuse_in_four_parts(const char *path, const char *override, const char *parts);

/* Fails unless both say the same of a run; where the values come from may differ. */
void assert_same_config(const Config *a, const Config *b);

EXTERN_C_END

#endif
