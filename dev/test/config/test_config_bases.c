/* test_config_bases.c: config files that name a base, and --print_config, which shows the values that they add up
 * to. */
#include "dev/test/config/config_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/config_file.h"
#include "config/config_keys.h"

/* What a config must have, as sections; a base that has it all. */
#define DATA "\"data\": {\"train\": \"t.bin\", \"val\": \"v.bin\"}"
#define OPTIMIZER "\"optimizer\": {\"name\": \"adamw\", \"learning_rate\": 6e-4}"
#define TRAIN "\"train\": {\"max_iters\": 100, \"total_batch_size\": 480, \"batch_size\": 4, \"out_dir\": \"out\"}"
#define WHOLE "{" DATA ", " OPTIMIZER ", " TRAIN "}"

/* Writes a file of the scratch folder and returns its path, one of test_path()'s. */
static const char *written(const char *name, const char *text) {
    const char *path = test_path("%s", name);
    test_write_text(path, text);
    return path;
}

/* Two files: base.json with `base`, and child.json, whose path it returns, which names it and has `sections`. */
static const char *child_of(const char *base, const char *sections) {
    written("base.json", base);
    char *text = format_string("{\"base\": \"base.json\"%s%s}", sections[0] ? ", " : "", sections);
    const char *path = written("child.json", text);
    free(text);
    return path;
}

static void make_folders(void) { assert_run(test_run("mkdir -p '%s/a/b'", test_folder()), 0, ""); }

/* ---- what a config with bases says ---- */

static void test_keys_replace_those_of_the_base(void **state) {
    (void)state;
    Config c = accepted(child_of(WHOLE, "\"model\": {\"n_layer\": 3}, \"train\": {\"out_dir\": \"mine\"}"), NULL);
    assert_int_equal(c.model.n_layer, 3);
    assert_string_equal(c.train.out_dir, "mine");
    assert_int_equal(c.train.max_iters, 100);
    assert_string_equal(c.data.train, "t.bin");
    assert_true(c.optimizer.learning_rate == 6e-4);
    /* An empty child is its base; where "base" stands does not matter, nor do comments. */
    Config whole = accepted(written("whole.json", WHOLE), NULL);
    Config same = accepted(child_of(WHOLE, ""), NULL);
    assert_same_config(&whole, &same);
    same = accepted(written("last.json", "{\"train\": {\"threads\": 0}, // before it\n /**/ \"base\": \"base.json\"}"),
                    NULL);
    assert_same_config(&whole, &same);
    assert_int_equal(accepted(test_path("child.json"), "--n_layer=5").model.n_layer, 5);
}

/* Each path begins at the folder of the file that gives it. */
static void test_bases_of_bases(void **state) {
    (void)state;
    make_folders();
    written("root.json", WHOLE);
    written("a/b/middle.json", "{\"base\": \"../../root.json\", \"model\": {\"n_layer\": 2, \"n_head\": 2}}");
    written("a/near.json",
            "{\"base\": \"b/middle.json\", \"model\": {\"n_layer\": 3}, \"data\": {\"val\": \"w.bin\"}}");
    Config c = accepted(written("top.json", "{\"base\": \"a/near.json\", \"train\": {\"out_dir\": \"top\"}}"), NULL);
    assert_int_equal(c.model.n_layer, 3);
    assert_int_equal(c.model.n_head, 2);
    assert_string_equal(c.data.val, "w.bin");
    assert_string_equal(c.train.out_dir, "top");
    char *text = format_string("{\"base\": \"%s/root.json\"}", test_folder());
    assert_string_equal(accepted(written("a/absolute.json", text), NULL).train.out_dir, "out");
    free(text);
    char *home = getenv("HOME") ? checked_strdup(getenv("HOME")) : NULL;
    setenv("HOME", test_folder(), 1);
    assert_string_equal(accepted(written("a/home.json", "{\"base\": \"~/root.json\"}"), NULL).train.out_dir, "out");
    if (home)
        setenv("HOME", home, 1);
    else
        unsetenv("HOME");
    free(home);
    /* A file in the working directory, whose path has no folder. */
    char *program = test_program("train_gpt2");
    assert_run(test_run("cd '%s' && '%s' child.json --print_config", test_folder(), program), 0,
               "\"train\": \"t.bin\"");
    free(program);
}

/* The two ways to give the batch replace each other, but not within one file, and 0 gives nothing. */
static void test_ways_to_give_the_batch(void **state) {
    (void)state;
    static const struct {
        const char *base, *child;
        int total, accumulation; /* both 0: refused */
    } cases[] = {
        {"\"total_batch_size\": 480", "\"gradient_accumulation_steps\": 5", 0, 5},
        {"\"gradient_accumulation_steps\": 5", "\"total_batch_size\": 480", 480, 0},
        {"\"gradient_accumulation_steps\": 5", "\"total_batch_size\": 0", 0, 5},
        {"\"total_batch_size\": 480", "\"total_batch_size\": 240", 240, 0},
        {"\"total_batch_size\": 480", "\"total_batch_size\": 240, \"gradient_accumulation_steps\": 0", 240, 0},
        {"\"total_batch_size\": 480", "\"total_batch_size\": 240, \"gradient_accumulation_steps\": 5", 0, 0},
        {"\"total_batch_size\": 480, \"gradient_accumulation_steps\": 5", "\"threads\": 0", 0, 0},
        {"\"total_batch_size\": 480, \"gradient_accumulation_steps\": 5", "\"total_batch_size\": 240", 240, 0},
        {"\"total_batch_size\": 480", "\"total_batch_size\": 0", 0, 0},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        char *base =
            format_string("{" DATA ", " OPTIMIZER ", \"train\": {\"max_iters\": 100, \"batch_size\": 4, \"out_dir\": "
                          "\"out\", %s}}",
                          cases[i].base);
        char *child = format_string("\"train\": {%s}", cases[i].child);
        const char *path = child_of(base, child);
        if (cases[i].total || cases[i].accumulation) {
            Config c = accepted(path, NULL);
            assert_int_equal(c.train.total_batch_size, cases[i].total);
            assert_int_equal(c.train.gradient_accumulation_steps, cases[i].accumulation);
        } else {
            refuse_by(path, NULL, i == 6 ? test_path("base.json") : path, "train.total_batch_size");
        }
        free(base);
        free(child);
    }
    /* The command line takes back what it replaces, as before. */
    refuse_by(child_of(WHOLE, ""), "--gradient_accumulation_steps=5", "command line: ", "are both given");
}

/* A short trial is in proportion to the run of the files. */
static void test_short_trial(void **state) {
    (void)state;
    const char *path = child_of("{" DATA ", " OPTIMIZER ", " TRAIN ", \"schedule\": {\"warmup_iters\": 40}}",
                                "\"train\": {\"max_iters\": 200}");
    Config c = accepted(path, "--max_iters=50");
    assert_int_equal(c.schedule.warmup_iters, 10);
}

/* ---- keys without effect ---- */

/* A base has keys for the optimizers of all runs that share it; a key of the file itself is a mistake. */
static void test_idle_keys(void **state) {
    (void)state;
    const char *base = "{" DATA ", " TRAIN ", \"optimizer\": {\"name\": \"mars-adamw\", \"learning_rate\": 6e-3, "
                       "\"beta1\": 0.95, \"gamma\": 0.01, \"lr_1d\": 1e-3}, \"schedule\": {\"min_lr\": 1e-5}}";
    Config c;
    char *warnings = warnings_of(&c, child_of(base, "\"optimizer\": {\"name\": \"adamw\"}"), NULL, NULL);
    assert_string_equal(warnings, "");
    free(warnings);
    /* Keys that AdamW has stay as the base says, whichever optimizer that has. */
    assert_true(c.optimizer.learning_rate == 6e-3 && c.optimizer.beta1 == 0.95);
    Config plain = accepted(child_of(base, "\"optimizer\": {\"name\": \"adamw\", \"gamma\": 0.5}"), NULL);
    assert_same_config(&plain, &c);
    warnings = warnings_of(&c, test_path("child.json"), NULL, NULL);
    must_hold(warnings, "child.json: without effect on the optimizer adamw: optimizer.gamma\n");
    free(warnings);
    warnings = warnings_of(&c, child_of(base, ""), "--optimizer.name=muon", NULL);
    assert_string_equal(warnings, "");
    free(warnings);
    refuse_by(child_of(base, "\"optimizer\": {\"name\": \"adamw\"}"), "--gamma=0.5",
              "command line: ", "optimizer.gamma: the optimizer adamw has no such setting");
}

/* ---- where a wrong value is ---- */

static void test_messages_name_the_file(void **state) {
    (void)state;
    const char *child = child_of("{" DATA ", " OPTIMIZER ", " TRAIN ", \"model\": {\"n_layer\": 0}}", "");
    char *base = checked_strdup(test_path("base.json"));
    refuse_by(child, NULL, base, "model.n_layer is 0; expected integer in [1, 1024]");
    refuse_by(child_of("{" DATA ", \"model\": {\"n_layer\": 1, \"n_layer\": 1}}", ""), NULL, base, "given twice");
    refuse_by(child_of("{" DATA ", \"modle\": {}}", ""), NULL, base, "there is no section 'modle'");
    refuse_by(child_of("{\n" DATA "\n\"model\": {}}", ""), NULL, base, ":3:1: not JSON");
    refuse_by(child_of("", ""), NULL, base, "the config is empty");
    child = child_of(WHOLE, "\"model\": {\"n_layer\": 0}");
    refuse_file(child, "model.n_layer is 0");
    /* Rules between keys: the file that gives one of them, before its base. */
    child = child_of("{" DATA ", " OPTIMIZER ", " TRAIN ", \"model\": {\"n_head\": 7}}", "\"model\": {\"n_layer\": 2}");
    refuse_by(child, NULL, base, "model.n_embd 768 must be a multiple of n_head 7");
    child =
        child_of("{" DATA ", " OPTIMIZER ", " TRAIN ", \"model\": {\"n_head\": 7}}", "\"model\": {\"n_embd\": 768}");
    refuse_file(child, "model.n_embd 768 must be a multiple of n_head 7");
    refuse_by(child, "--n_head=5", "command line: ", "model.n_embd 768 must be a multiple of n_head 5");
    child = child_of("{" DATA ", " OPTIMIZER "}", "\"train\": {\"max_iters\": 100, \"batch_size\": 4}");
    refuse_file(child, "train.out_dir is missing");
    Config c = accepted(child_of(WHOLE, "\"model\": {\"n_layer\": 2}"), "--n_embd=96");
    assert_string_equal(config_where(&c, "model.n_layer train.max_iters"), test_path("child.json"));
    assert_string_equal(config_where(&c, "train.max_iters"), base);
    assert_string_equal(config_where(&c, "train.max_iters model.n_head"), base);
    assert_string_equal(config_where(&c, "model.n_head"), test_path("child.json")); /* a default */
    assert_string_equal(config_where(&c, "train.max_iters model.n_embd"), "command line");
    free(base);
}

/* ---- bases that are none ---- */

static void test_values_of_base(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"12", "base is 12; expected the path of a config file"},
        {"null", "base is null; expected"},
        {"[\"base.json\"]", "base is [\"base.json\"]; expected"},
        {"{\"model\": {}}", "base is {\"model\":{}}; expected"},
        {"\"\"", "base is \"\"; expected"},
        {"\"base.json\", \"base\": \"base.json\"", "base is given twice"},
        {"\".\"", "a folder; give the config file in it"},
        {"\"no/such.json\"", "base: cannot open |/no/such.json: No such file or directory"},
        {"\"/no/such.json\"", "base: cannot open /no/such.json: No such file"},
    };
    written("base.json", WHOLE);
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        char *text = format_string("{\"base\": %s}", cases[i][0]);
        refuse_file(written("wrong.json", text), cases[i][1]);
        free(text);
    }
    /* The file that asks is named, not the one that was given. */
    const char *child = child_of("{\"base\": \"gone.json\"}", "");
    refuse_by(child, NULL, test_path("base.json"), "base: cannot open |/gone.json");
    refuse_override("--base=base/small.json", "--base: only a file has a base");
    refuse_file(config_with("bases", ""), "there is no section 'bases'");
}

static void test_circles(void **state) {
    (void)state;
    make_folders();
    const char *self = written("self.json", "{\"base\": \"a/../self.json\"}");
    refuse_file(self, "base: the files name each other in a circle: |/self.json -> |/a/../self.json");
    written("two.json", "{\"base\": \"three.json\"}");
    written("three.json", "{\"base\": \"one.json\"}");
    const char *one = written("one.json", "{\"base\": \"two.json\"}");
    char *chain =
        format_string("in a circle: %s -> %s/two.json -> %s/three.json -> %s", one, test_folder(), test_folder(), one);
    refuse_by(one, NULL, test_path("three.json"), chain);
    free(chain);
    /* By another name: a symbolic link. */
    assert_int_equal(symlink("linked.json", test_path("link.json")), 0);
    refuse_file(written("linked.json", "{\"base\": \"link.json\"}"), "in a circle: |/linked.json -> |/link.json");
}

/* A chain of `count` files: N.json, ... 1.json, and 0.json, which is a whole config. */
static const char *chain_of(int count) {
    const char *path = written("0.json", WHOLE);
    for (int i = 1; i < count; i++) {
        char *name = format_string("%d.json", i), *text = format_string("{\"base\": \"%d.json\"}", i - 1);
        path = written(name, text);
        free(name);
        free(text);
    }
    return path;
}

static void test_too_many_files(void **state) {
    (void)state;
    assert_int_equal(accepted(chain_of(CONFIG_MAX_FILES), NULL).train.max_iters, 100);
    refuse_by(chain_of(CONFIG_MAX_FILES + 1), NULL, test_path("1.json"), "base: more than 8 files: |/8.json -> ");
    /* A circle of as many files is called one. */
    char *first = format_string("{\"base\": \"%d.json\"}", CONFIG_MAX_FILES - 1);
    written("0.json", first);
    refuse_by(test_path("%d.json", CONFIG_MAX_FILES - 1), NULL, test_path("0.json"), "in a circle");
    free(first);
}

/* ---- as text ---- */

/* The printed config has a line for each key, no base, and comes back as the same config. */
static void test_printed_config(void **state) {
    (void)state;
    Config c = accepted(child_of(WHOLE, "\"optimizer\": {\"name\": \"mars-m\", \"betas_1d\": [0.8, 0.9]}, "
                                        "\"data\": {\"val\": \"a\\\"\\\\b\"}"),
                        "--train.seed=18446744073709551615");
    const char *path = test_path("printed.json");
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    config_print(file, &c);
    assert_int_equal(fclose(file), 0);
    Config again = accepted(path, NULL);
    assert_same_config(&c, &again);
    char *text = test_read_file(path, NULL), *json = config_to_json(&c);
    must_hold(text, "{\n    \"model\": {\n        \"n_layer\": 12,\n");
    must_hold(text, "        \"val\": \"a\\\"\\\\b\",\n");
    must_hold(text, "        \"betas_1d\": [0.8,0.9],\n");
    must_hold(text, "\n    },\n    \"data\": {\n");
    assert_null(strstr(text, "base"));
    char *packed =
        text; /* without line ends and the blanks that begin lines or follow keys, it is config_to_json()'s */
    size_t length = 0;
    for (const char *at = text; *at; at++)
        if (*at != '\n' && *at != ' ') packed[length++] = *at;
    packed[length] = 0;
    assert_string_equal(packed, json);
    free(text);
    free(json);
}

/* Wherever it stands, and without a run: nothing is written, and no data is read. */
static void test_print_config(void **state) {
    (void)state;
    child_of(WHOLE, "\"model\": {\"n_layer\": 3}");
    char *program = test_program("train_gpt2");
    static const char *const orders[] = {"child.json --n_head=6 --print_config", "--print_config child.json --n_head=6",
                                         "child.json --print_config --n_head=6"};
    for (size_t i = 0; i < ARRAY_LENGTH(orders); i++) {
        CommandResult *result = test_run("cd '%s' && '%s' %s && [ ! -e out ]", test_folder(), program, orders[i]);
        assert_run(result, 0, "{\n    \"model\": {\n        \"n_layer\": 3,\n        \"n_head\": 6,\n");
        assert_run(result, 0, "\"ema_start\": 0\n    }\n}\n");
    }
    static const char *const wrong[][2] = {
        {"child.json --n_head=7", "command line: model.n_embd 768 must be a multiple of n_head 7"},
        {"child.json --batch_size=7", "train.total_batch_size 480 is not a multiple of train.batch_size 7"},
        {"no_such.json", "no_such.json: cannot open the config"},
        {"--n_head=6", "the first argument must be a config file, and is '--n_head=6'"},
        {"", "the first argument must be a config file"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(wrong); i++)
        assert_run(test_run("cd '%s' && '%s' --print_config %s", test_folder(), program, wrong[i][0]), EXIT_USAGE,
                   wrong[i][1]);
    assert_run(test_run("cd '%s' && '%s' child.json --print_config >/dev/full", test_folder(), program), EXIT_FAILED,
               "cannot write to standard output");
    /* A batch that grows with the number of processes stays open. */
    assert_run(
        test_run("cd '%s' && '%s' child.json --total_batch_size=0 --gradient_accumulation_steps=5 --print_config",
                 test_folder(), program),
        0, "\"gradient_accumulation_steps\": 5,\n");
    free(program);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keys_replace_those_of_the_base),
        cmocka_unit_test(test_bases_of_bases),
        cmocka_unit_test(test_ways_to_give_the_batch),
        cmocka_unit_test(test_short_trial),
        cmocka_unit_test(test_idle_keys),
        cmocka_unit_test(test_messages_name_the_file),
        cmocka_unit_test(test_values_of_base),
        cmocka_unit_test(test_circles),
        cmocka_unit_test(test_too_many_files),
        cmocka_unit_test(test_printed_config),
        cmocka_unit_test(test_print_config),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
