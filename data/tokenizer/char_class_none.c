/* char_class_none.c: char_class.h in a build without utf8proc. */
#include "data/tokenizer/char_class.h"

bool char_class_fill(uint8_t classes[UTF8_CODES], Error *error) {
    (void)classes;
    return error_set(error, "the gpt2 tokenizer needs utf8proc, which this program was built without: install "
                            "libutf8proc-dev, or run bash scripts/install_deps.sh, and then make");
}

const char *char_class_version(void) { return "none"; }
