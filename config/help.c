/* help.c: what a person may ask a program about its command line and config: usage, --help, --version. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config_keys.h"

/* Prints below a key, in lines that are not too long. */
static void print_note(FILE *file, const char *text) {
    enum { INDENT = 34, WIDTH = 120 - INDENT };
    while (*text) {
        size_t length = strlen(text);
        if (length > WIDTH)
            for (length = WIDTH; length > 1 && text[length] != ' ';) length--;
        fprintf(file, "%*s%.*s\n", INDENT, "", (int)length, text);
        text += length;
        text += strspn(text, " ");
    }
}

/* "only: adamw, muon", below a key. */
static void print_names(FILE *file, const char *label, void (*list)(unsigned, char *, size_t), unsigned mask) {
    char text[256];
    size_t used = (size_t)snprintf(text, sizeof text, "%s", label);
    list(mask, text + used, sizeof text - used);
    print_note(file, text);
}

void config_print_help(FILE *file) {
    fprintf(file,
            "Keys of the config file, by section. On the command line: --section.key=value, or --key=value where\n"
            "only one section has the key; what is given there wins over the file.\n");
    for (int i = 0; i < config_key_count; i++) {
        const ConfigKey *key = &config_keys[i];
        const char *shown = key->default_text ? key->default_text : "required";
        char text[256];
        if (i == 0 || strcmp(key->section, config_keys[i - 1].section) != 0) {
            fprintf(file, "\n%s\n", key->section);
            fprintf(file, "  %-32s%-22s%-10s%s\n", "key", "type", "default", "meaning");
        }
        config_key_type_text(key, text, sizeof text);
        fprintf(file, "  %-32s%-22s%-10s%s\n", key->name, text, shown[0] ? shown : "\"\"", key->help);
        if (key->type == CONFIG_CHOICE) {
            config_key_expectation(key, text, sizeof text);
            print_note(file, text);
        }
        if (key->optimizers) print_names(file, "only: ", config_list_optimizers, key->optimizers);
        if (key->schedules) print_names(file, "only: ", config_list_schedules, key->schedules);
        if (key->with_1d) print_names(file, "only where optimize_1d is true: ", config_list_optimizers, key->with_1d);
        if (key->without_1d)
            print_names(file, "only where optimize_1d is false: ", config_list_optimizers, key->without_1d);
    }
    fprintf(file,
            "\nGive total_batch_size or gradient_accumulation_steps:\n"
            "total_batch_size = batch_size x processes x gradient_accumulation_steps.\n"
            "A key that is marked \"only\" has no effect on the other optimizers or schedules: in the file that is\n"
            "a warning, on the command line an error, and so is a key that is given twice.\n"
            "--max_iters below the file's shortens the file's warmup_iters and warmdown_iters in\n"
            "proportion; those that are given on the command line too stay as they are.\n");
}

static void print_usage(FILE *file) {
    fprintf(file, "usage: train_gpt2 CONFIG.json [--key=value ...]\n"
                  "       mpirun -np N train_gpt2 CONFIG.json [--key=value ...]\n"
                  "       train_gpt2 --help | --version\n");
}

void config_require_file(int argc, char *const *argv, bool speaks) {
    if (argc >= 2 && argv[1][0] != '-') return;
    if (argc >= 2 && strcmp(argv[1], "-") == 0)
        die_usage("the first argument must be a config file; standard input is /dev/stdin");
    if (speaks) print_usage(stderr);
    if (argc < 2) die_usage("the first argument must be a config file, such as config/quickstart.json");
    die_usage("the first argument must be a config file, and is '%.80s'; --key=value comes after it", argv[1]);
}

void config_answer_questions(int argc, char *const *argv) {
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--version") == 0) {
            printf("train_gpt2 (mars.c) %s\n", MARS_VERSION);
            exit(EXIT_DONE);
        }
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            print_usage(stdout);
            config_print_help(stdout);
            exit(EXIT_DONE);
        }
    }
}
