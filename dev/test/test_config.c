/* test_config.c: the config parser. What it accepts must be read exactly; what it refuses must be refused with a
 * message that names the place and what would be right. Messages are compared by the parts that a user needs. */
#include "dev/test/test.h"

#include <cjson/cJSON.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "config/config_keys.h"

enum { MOST_OVERRIDES = 16 };

/* What a config must have, and nothing else. */
static const char *const needed[][2] = {
    {"data", "\"train\": \"t.bin\", \"val\": \"v.bin\""},
    {"optimizer", "\"name\": \"adamw\", \"learning_rate\": 6e-4"},
    {"train", "\"max_iters\": 100, \"total_batch_size\": 480, \"batch_size\": 4, \"out_dir\": \"out\""},
};

/* The path of a valid config with `body` added to one section. */
static const char *config_with(const char *section, const char *body) {
    const char *path = test_path("config.json");
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    bool added = false;
    for (size_t i = 0; i < ARRAY_LENGTH(needed); i++) {
        bool here = strcmp(section, needed[i][0]) == 0;
        fprintf(file, "%s\"%s\": {%s%s%s}", i ? ",\n" : "{", needed[i][0], needed[i][1], here ? ", " : "",
                here ? body : "");
        added = added || here;
    }
    if (!added) fprintf(file, ",\n\"%s\": {%s}", section, body);
    fprintf(file, "}\n");
    assert_int_equal(fclose(file), 0);
    return path;
}

static const char *valid_config(void) { return config_with("model", ""); }

static const char *file_of(const char *text) {
    const char *path = test_path("config.json");
    test_write_text(path, text);
    return path;
}

/* A valid config with this optimizer, and `body` in its section. */
static const char *config_of(const char *optimizer, const char *body) {
    char *text = format_string(
        "{\"data\": {%s}, \"optimizer\": {\"name\": \"%s\", \"learning_rate\": 0.01%s%s}, \"train\": {%s}}",
        needed[0][1], optimizer, body[0] ? ", " : "", body, needed[2][1]);
    const char *path = file_of(text);
    free(text);
    return path;
}

/* Loads with overrides, a list that ends with NULL. */
static bool load(Config *config, Error *error, const char *path, ...) {
    char *overrides[MOST_OVERRIDES];
    int count = 0;
    va_list list;
    va_start(list, path);
    for (char *next; (next = va_arg(list, char *));) overrides[count++] = next;
    va_end(list);
    error->text[0] = 0;
    return config_load(config, path, count, overrides, error);
}

static Config accept(const char *path, const char *override) {
    Config config;
    Error error;
    if (!load(&config, &error, path, override, NULL)) fail_msg("refused: %s", error.text);
    return config;
}

static void must_hold(const char *text, const char *part) {
    if (!strstr(text, part)) fail_msg("'%s' is not in: %s", part, text);
}

/* Refused, with a message that starts with the file's name and holds all parts (a list separated by '|'). */
static void refuse_by(const char *path, const char *override, const char *start, const char *parts) {
    Config config;
    Error error;
    if (load(&config, &error, path, override, NULL))
        fail_msg("accepted, although it should say '%s' (override %s)", parts, override ? override : "none");
    if (strncmp(error.text, start, strlen(start)) != 0) fail_msg("does not start with '%s': %s", start, error.text);
    char *list = checked_strdup(parts), *rest = list;
    for (char *part; (part = strsep(&rest, "|"));) must_hold(error.text, part);
    free(list);
}

static void refuse_file(const char *path, const char *parts) { refuse_by(path, NULL, path, parts); }
static void refuse_text(const char *text, const char *parts) { refuse_file(file_of(text), parts); }
static void refuse_override(const char *override, const char *parts) {
    refuse_by(valid_config(), override, "command line: ", parts);
}
/* A rule between keys: the message starts with the file, although an override broke it. */
static void refuse_together(const char *override, const char *parts) {
    const char *path = valid_config();
    refuse_by(path, override, path, parts);
}

/* ---- what is read ---- */

/* Every default, and the form of config_to_json: sections and keys in the table's order, on one line. */
static void test_defaults(void **state) {
    (void)state;
    Config config = accept(valid_config(), NULL);
    char *text = config_to_json(&config);
    assert_string_equal(
        text, "{\"model\":{\"n_layer\":12,\"n_head\":12,\"n_embd\":768,\"block_size\":1024,\"vocab_size\":50304,"
              "\"bias\":false,\"dropout\":0,\"scale_attn_by_inverse_layer_idx\":true},"
              "\"data\":{\"train\":\"t.bin\",\"val\":\"v.bin\",\"hellaswag\":\"\",\"order\":\"random\",\"seed\":5000},"
              "\"optimizer\":{\"name\":\"adamw\",\"learning_rate\":0.0006,\"weight_decay\":0.1,\"beta1\":0.9,"
              "\"beta2\":0.95,\"eps\":1e-08,\"grad_clip\":1},"
              "\"schedule\":{\"name\":\"constant\",\"warmup_iters\":0,\"lr_decay_iters\":100,\"min_lr\":0,"
              "\"warmdown_iters\":0},"
              "\"train\":{\"max_iters\":100,\"total_batch_size\":480,\"batch_size\":4,\"gradient_scale\":1,"
              "\"eval_interval\":1000,\"eval_sequences\":0,\"eval_only\":false,\"log_interval\":10,"
              "\"checkpoint_interval\":1000,\"keep_checkpoints\":2,\"out_dir\":\"out\",\"overwrite\":false,"
              "\"init_from\":\"scratch\",\"seed\":5000,\"device\":\"auto\",\"precision\":\"auto\","
              "\"allow_tf32\":false,\"threads\":0,\"recompute\":\"none\"}}");
    free(text);
    assert_int_equal(config.model.n_embd, 768);
    assert_true(config.model.scale_attn_by_inverse_layer_idx);
    assert_string_equal(config.data.val, "v.bin");
    assert_int_equal(config.data.order, ORDER_RANDOM);
    assert_true(config.optimizer.beta2 == 0.95 && config.optimizer.gradient_scale == 1);
    assert_int_equal(config.schedule.name, SCHEDULE_CONSTANT);
    assert_int_equal(config.schedule.max_iters, 100);
    assert_int_equal(config.train.gradient_accumulation_steps, 0);
    assert_int_equal(config.train.seed, 5000);
}

static void test_values_of_a_file(void **state) {
    (void)state;
    Config c = accept(config_with("schedule", "\"name\": \"exp\", \"warmup_iters\": 1e1, \"min_lr\": 3e-5"), NULL);
    assert_int_equal(c.schedule.name, SCHEDULE_EXP);
    assert_int_equal(c.schedule.warmup_iters, 10);
    assert_true(c.schedule.min_lr == 3e-5);
    c = accept(config_with("train", "\"gradient_scale\": 12, \"device\": \"cuda\", \"precision\": \"bfloat16\", "
                                    "\"allow_tf32\": true, \"recompute\": \"block\", \"eval_interval\": 0"),
               NULL);
    assert_true(c.optimizer.gradient_scale == 12);
    assert_int_equal(c.train.device, DEVICE_CUDA);
    assert_int_equal(c.train.precision, PRECISION_BFLOAT16);
    assert_int_equal(c.train.recompute, RECOMPUTE_BLOCK);
    assert_true(c.train.allow_tf32);
    assert_int_equal(c.train.eval_interval, 0);
    c = accept(config_with("data", "\"order\": \"shuffled\", \"seed\": 9007199254740991"), NULL);
    assert_int_equal(c.data.order, ORDER_SHUFFLED);
    assert_true(c.data.seed == 9007199254740991u);
    c = accept(config_with("data", "\"seed\": \"18446744073709551615\""), NULL);
    assert_true(c.data.seed == UINT64_MAX);
}

static void test_comments(void **state) {
    (void)state;
    const char *path = file_of("// first\n/**//***/ {/* \" */\"data\": { // it's \"here\" /* {\n"
                               "  \"train\" /* : */ : /*\n*/ \"http://a//b/*c*/d\", \"val\": \"q\\\"//\\\\\" // \\\n"
                               "}, \"optimizer\": {\"name\": \"adamw\",/**/\"learning_rate\": 1/*2*/},\n"
                               "\"train\": {\"max_iters\": 5, \"total_batch_size\": 1, \"batch_size\": 1, "
                               "\"out_dir\": \"/*\"}}//end");
    Config c = accept(path, NULL);
    assert_string_equal(c.data.train, "http://a//b/*c*/d");
    assert_string_equal(c.data.val, "q\"//\\");
    assert_string_equal(c.train.out_dir, "/*");
    assert_true(c.optimizer.learning_rate == 1);
}

static void test_line_ends_and_byte_order_mark(void **state) {
    (void)state;
    Config plain = accept(valid_config(), NULL);
    Config windows =
        accept(file_of("\xEF\xBB\xBF{\r\n// note\r\n\"data\": {\"train\": \"t.bin\",\r\n\"val\": \"v.bin\"},"
                       "\r\n\"optimizer\": {\"name\": \"adamw\", \"learning_rate\": 6e-4}, /* a\r\nb */\r\n"
                       "\"train\": {\"max_iters\": 100, \"total_batch_size\": 480,\r\n"
                       "\"batch_size\": 4, \"out_dir\": \"out\"}}\r\n"),
               NULL);
    assert_memory_equal(&plain, &windows, sizeof plain);
    refuse_text("{\r\n\"data\": {}\r\n\"train\": {}}\r\n", ":3:1: ");
}

/* ---- files that are no config ---- */

static void test_files_that_cannot_be_read(void **state) {
    (void)state;
    refuse_file(test_path("missing.json"), "cannot open|No such file");
    refuse_file(test_folder(), "cannot read|Is a directory");
    refuse_file("/dev/zero", "too large");
}

static void test_empty_files(void **state) {
    (void)state;
    refuse_text("", "empty");
    refuse_text(" \r\n\t\n", "empty");
    refuse_text("// only a comment", "empty");
    refuse_text("[]", "expected an object of sections");
    refuse_text("12", "expected an object of sections");
    refuse_text("null", "expected an object of sections");
    refuse_text("{}", "data.train is missing");
}

/* Each text with the line and column that a person would point at. */
static void test_syntax_errors_name_the_place(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"{", ":1:2: not JSON|the end of the file"},
        {"{\n  \"model\": {\n    \"n_layer\": 12,\n  }\n}", ":4:3: not JSON|at: }"},
        {"{\"model\": {\"n_layer\": 12,}}", ":1:26: not JSON|at: }}"},
        {"{ /* a\n\n */ \"model\": {n_layer: 12}}", ":3:15: not JSON|at: n_layer: 12}}"},
        {"{\n\"model\" {}}", ":2:9: not JSON|at: {}}"},
        {"{\n\"model\": {\"n_layer\": 1 \"n_head\": 2}}", ":2:24: not JSON|at: \"n_head\""},
        {"{\"model\": {\"n_layer\": yes}}", ":1:23: not JSON|at: yes"},
        {"{\"model\": {\"n_layer\": NaN}}", ":1:23: not JSON|at: NaN"},
        {"{\"model\": {\"n_layer\": 0x10}}", ":1:24: not JSON|at: x10"},
        {"{\"model\": {'n_layer': 1}}", ":1:12: not JSON|at: 'n_layer'"},
        {"{\"model\": [1, }", ":1:15: not JSON|at: }"},
        {"{\"model\": {}}\n}", ":2:1: not JSON|at: }"},
        {"{\"model\": {}} // fine\n, {}", ":2:1: not JSON|at: , {}"},
        {"{}\n{}", ":2:1: not JSON|at: {}"},
        {"{\"model\": {}}\ngarbage", ":2:1: not JSON|at: garbage"},
        {"# comment\n{}", ":1:1: not JSON|at: # comment"},
        {"{\n /* open {\n}", ":2:2: this comment has no end|at: /* open {"},
        {"{} /*/", ":1:4: this comment has no end"},
        {"{} /* *", ":1:4: this comment has no end"},
        {"{} /", ":1:4: not JSON|at: /"},
        {"{\n\"data\": {\"train\": \"t.bin,\n\"val\": \"v.bin\"}}",
         ":2:19: this string has no closing quote|at: \"t.bin,"},
        {"{\"", ":1:2: this string has no closing quote"},
        {"{\"a\\", ":1:2: this string has no closing quote"},
        {"{\"a\\\n\": 1}", ":1:2: this string has no closing quote"},
        {"{\"data\": {\"train\": \"a\\u0000b\"}}", ":1:20: a string cannot hold \\u0000"},
        {"{\"data\": {\"tr\\u0000\": 1}}", ":1:11: a string cannot hold \\u0000"},
        {"{\"data\": {\"train\": \"\\x\"}}", ":1:"},
        {"{\"data\": {\"train\": \"\\ud800\"}}", ":1:"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) refuse_text(cases[i][0], cases[i][1]);
}

static void test_binary_files(void **state) {
    (void)state;
    const char *path = test_path("config.json");
    test_write_file(path, "{\n\"model\"\0: {}}", 16);
    refuse_file(path, ":2:8: a zero byte");
    test_write_file(path, "\xff\xfe{\0", 4);
    refuse_file(path, ":1:4: a zero byte");
    test_write_file(path, "\x7f\x1b\xff", 3);
    refuse_file(path, ":1:1: not JSON|at: ???");
    size_t size = 1000000;
    char *garbage = checked_malloc(size, "garbage");
    uint32_t random = 1;
    for (size_t i = 0; i < size; i++) garbage[i] = (char)((random = random * 1664525 + 1013904223) >> 24 | 1);
    test_write_file(path, garbage, size);
    refuse_file(path, ":1:1: not JSON");
    memset(garbage, ' ', size);
    memcpy(garbage, "{}", 2);
    memcpy(garbage + size - 2, "\n?", 2);
    test_write_file(path, garbage, size);
    refuse_file(path, ":2:1: not JSON|at: ?");
    free(garbage);
}

static void test_nesting_bomb(void **state) {
    (void)state;
    enum { DEPTH = 200000 };
    char *text = checked_malloc(DEPTH * 5 + 1, "a bomb");
    memset(text, '[', DEPTH);
    text[DEPTH] = 0;
    refuse_text(text, ":1:|not JSON");
    for (size_t i = 0; i < DEPTH; i++) memcpy(text + 5 * i, "{\"a\":", 6);
    refuse_text(text, ":1:|not JSON");
    free(text);
    refuse_text("{\"data\": {\"seed\": [[[[{\"a\": [1, 2]}]]]]}}",
                "data.seed is [[[[{\"a\":[1,2]}]]]]; expected integer");
}

/* ---- sections and keys ---- */

static void test_sections(void **state) {
    (void)state;
    refuse_file(config_with("modle", ""), "no section 'modle'|nearest is model");
    refuse_file(config_with("optimiser", ""), "no section 'optimiser'|nearest is optimizer");
    refuse_file(config_with("", ""), "no section ''");
    refuse_text("{\"model\": 12}", "section model must be an object");
    refuse_text("{\"model\": [\"n_layer\"]}", "section model must be an object");
    refuse_text("{\"data\": null}", "section data must be an object");
    refuse_text("{\"model\": {\"n_layer\": 1}, \"data\": {}, \"model\": {\"n_head\": 1}}",
                "section model is given twice");
    refuse_text("{\"n_layer\": 12}", "no section 'n_layer'");
}

static void test_unknown_keys(void **state) {
    (void)state;
    refuse_file(config_with("model", "\"n_layers\": 12"), "no key 'model.n_layers'|nearest is model.n_layer");
    refuse_file(config_with("model", "\"seed\": 12"), "no key 'model.seed'|seed");
    refuse_file(config_with("train", "\"learning_rate\": 1"),
                "'train.learning_rate'|nearest is optimizer.learning_rate");
    refuse_file(config_with("train", "\"evalinterval\": 1"), "nearest is train.eval_interval");
    refuse_file(config_with("schedule", "\"Name\": \"wsd\""), "'schedule.Name'|nearest is schedule.name");
    refuse_file(config_with("data", "\"\": 1"), "no key 'data.'");
    char *body = format_string("\"%0*d\": 1", 5000, 0);
    refuse_file(config_with("data", body), "no key 'data.000000|nearest is ");
    free(body);
    refuse_override("--n_layr=3", "no key 'n_layr'|nearest is model.n_layer");
    refuse_override("--modle.n_layer=3", "no key 'modle.n_layer'|nearest is model.n_layer");
    refuse_override("--train.n_layer=3", "no key 'train.n_layer'|nearest is model.n_layer");
    refuse_override("--schedule_.n_layer=3", "nearest is model.n_layer");
    refuse_override("--schedule.nam=3", "nearest is schedule.name");
    refuse_override("--optimizer.nam=3", "nearest is optimizer.name");
    refuse_override("--model.n_layer.x=3", "no key 'model.n_layer.x'");
    refuse_override("--.=3", "no key '.'");
    refuse_override("--gama=3", "no key 'gama'|nearest is optimizer.gamma");
    refuse_override("--beta=0.9", "no key 'beta'|nearest is optimizer.beta1");
    refuse_override("--beta_1d=0.9,0.95", "nearest is optimizer.betas_1d");
    refuse_override("--weight_decay1d=0", "nearest is optimizer.weight_decay_1d");
    refuse_override("--muon_learning_rates=1", "nearest is optimizer.muon_learning_rate");
    refuse_override("--learning_rates=1", "nearest is optimizer.learning_rate");
    refuse_file(config_with("train", "\"ns_dtype\": \"auto\""), "'train.ns_dtype'|nearest is optimizer.ns_dtype");
}

static void test_duplicate_keys(void **state) {
    (void)state;
    refuse_file(config_with("model", "\"n_layer\": 1, \"bias\": true, \"n_layer\": 1"), "model.n_layer is given twice");
    refuse_file(config_with("data", "\"train\": \"again\""), "data.train is given twice");
    Config config;
    Error error;
    assert_false(load(&config, &error, valid_config(), "--n_layer=1", "--model.n_layer=2", NULL));
    must_hold(error.text, "command line: model.n_layer is given twice");
    assert_true(load(&config, &error, valid_config(), "--data.seed=1", "--train.seed=2", NULL));
}

static void test_required_keys(void **state) {
    (void)state;
    static const char *const required[] = {
        "data.train",      "data.val",         "optimizer.name",         "train.out_dir",
        "train.max_iters", "train.batch_size", "optimizer.learning_rate"};
    static const char *const overrides[] = {"--data.train=t",   "--data.val=v",        "--optimizer.name=adamw",
                                            "--out_dir=o",      "--train.max_iters=9", "--batch_size=1",
                                            "--learning_rate=1"};
    for (size_t missing = 0; missing <= ARRAY_LENGTH(required); missing++) {
        char *list[ARRAY_LENGTH(required) + 1];
        int count = 0;
        for (size_t i = 0; i < ARRAY_LENGTH(required); i++)
            if (i != missing) list[count++] = (char *)overrides[i];
        list[count++] = "--total_batch_size=1";
        Config config;
        Error error;
        bool good = config_load(&config, NULL, count, list, &error);
        if (missing == ARRAY_LENGTH(required)) {
            assert_true(good);
            assert_string_equal(config.train.out_dir, "o");
        } else {
            assert_false(good);
            char *part = format_string("command line: %s is missing: ", required[missing]);
            must_hold(error.text, part);
            free(part);
        }
    }
}

/* ---- values ---- */

static void test_wrong_types(void **state) {
    (void)state;
    static const char *const cases[][3] = {
        {"model", "\"n_layer\": \"12\"", "model.n_layer is \"12\"; expected integer in [1, 1024]"},
        {"model", "\"n_layer\": true", "model.n_layer is true; expected integer"},
        {"model", "\"n_layer\": null", "model.n_layer is null; expected integer"},
        {"model", "\"n_layer\": [12]", "model.n_layer is [12]; expected integer"},
        {"model", "\"bias\": 1", "model.bias is 1; expected true or false"},
        {"model", "\"bias\": \"true\"", "model.bias is \"true\"; expected true or false"},
        {"optimizer", "\"beta1\": \"0.9\"", "optimizer.beta1 is \"0.9\"; expected number in [0, 1)"},
        {"optimizer", "\"eps\": {}", "optimizer.eps is {}; expected number > 0"},
        {"data", "\"hellaswag\": false", "data.hellaswag is false; expected string of 0 to 1023 bytes"},
        {"data", "\"order\": 1", "data.order is 1; expected one of: random, sequential, shuffled"},
        {"data", "\"seed\": false", "data.seed is false; expected integer in [0, 2^64)"},
        {"train", "\"init_from\": 3", "train.init_from is 3; expected string"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) refuse_file(config_with(cases[i][0], cases[i][1]), cases[i][2]);
}

static void test_numbers_out_of_range(void **state) {
    (void)state;
    static const char *const cases[][3] = {
        {"model", "\"n_layer\": 0", "model.n_layer is 0; expected integer in [1, 1024]"},
        {"model", "\"n_layer\": -3", "model.n_layer is -3; expected"},
        {"model", "\"n_layer\": 2.5", "model.n_layer is 2.5; expected integer"},
        {"model", "\"vocab_size\": 65537", "model.vocab_size is 65537; expected integer in [1, 65536]"},
        {"model", "\"vocab_size\": 1e999", "model.vocab_size is inf; expected integer"},
        {"model", "\"dropout\": 1", "model.dropout is 1; expected number in [0, 1)"},
        {"optimizer", "\"beta1\": 1", "optimizer.beta1 is 1; expected number in [0, 1)"},
        {"optimizer", "\"beta2\": 1.0000000000000002", "optimizer.beta2 is 1.0000000000000002; expected"},
        {"optimizer", "\"beta2\": -0.1", "optimizer.beta2 is -0.1; expected"},
        {"optimizer", "\"eps\": 0", "optimizer.eps is 0; expected number > 0"},
        {"optimizer", "\"eps\": 1e-999", "optimizer.eps is 0; expected number > 0"},
        {"optimizer", "\"grad_clip\": -1", "optimizer.grad_clip is -1; expected number >= 0"},
        {"optimizer", "\"grad_clip\": 1e999", "optimizer.grad_clip is inf; expected number >= 0"},
        {"optimizer", "\"weight_decay\": -1e999", "optimizer.weight_decay is -inf; expected"},
        {"schedule", "\"min_lr\": -1e-9", "schedule.min_lr is -1e-09; expected number >= 0"},
        {"schedule", "\"warmup_iters\": 2147483648",
         "schedule.warmup_iters is 2147483648; expected|at most 2147483647"},
        {"schedule", "\"warmup_iters\": 1e300", "schedule.warmup_iters is 1e+300; expected|at most 2147483647"},
        {"train", "\"gradient_scale\": 0", "train.gradient_scale is 0; expected number > 0"},
        {"train", "\"log_interval\": 0", "train.log_interval is 0; expected integer >= 1"},
        {"train", "\"eval_interval\": -1", "train.eval_interval is -1; expected integer >= 0"},
        {"train", "\"threads\": 5000", "train.threads is 5000; expected integer in [0, 4096]"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) refuse_file(config_with(cases[i][0], cases[i][1]), cases[i][2]);
    assert_int_equal(accept(valid_config(), "--warmdown_iters=2147483647").schedule.warmdown_iters, 2147483647);
    assert_int_equal(accept(valid_config(), "--vocab_size=65536").model.vocab_size, 65536);
    assert_true(accept(valid_config(), "--beta1=0").optimizer.beta1 == 0);
}

static void test_seeds(void **state) {
    (void)state;
    const char *expected = "|expected integer in [0, 2^64), written in quotes in a file from 2^53 on";
    static const char *const cases[] = {"9007199254740992",
                                        "9007199254740993",
                                        "18446744073709551616",
                                        "-1",
                                        "1.5",
                                        "1e999",
                                        "\"\"",
                                        "\"-1\"",
                                        "\" 1\"",
                                        "\"0x10\"",
                                        "\"1e3\"",
                                        "\"18446744073709551616\""};
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        char *body = format_string("\"seed\": %s", cases[i]);
        char *parts = format_string("train.seed is %s", expected);
        refuse_file(config_with("train", body), parts);
        free(body);
        free(parts);
    }
    assert_true(accept(valid_config(), "--train.seed=18446744073709551615").train.seed == UINT64_MAX);
    assert_true(accept(valid_config(), "--train.seed=9007199254740993").train.seed == 9007199254740993u);
    refuse_override("--train.seed=18446744073709551616", "train.seed is '18446744073709551616'; expected integer");
    refuse_override("--train.seed=-1", "train.seed is '-1'");
    refuse_override("--train.seed=1.0", "train.seed is '1.0'");
    refuse_override("--train.seed=", "train.seed is ''");
}

static void test_strings_and_choices(void **state) {
    (void)state;
    refuse_file(config_with("train", "\"init_from\": \"\""),
                "train.init_from is \"\"; expected string of 1 to 1023 bytes");
    refuse_override("--data.val=", "data.val is ''; expected string of 1 to 1023 bytes");
    char *longest = format_string("--out_dir=%0*d", CONFIG_STRING_LENGTH - 1, 7);
    assert_string_equal(accept(valid_config(), longest).train.out_dir, longest + strlen("--out_dir="));
    free(longest);
    char *too_long = format_string("--out_dir=%0*d", CONFIG_STRING_LENGTH, 7);
    refuse_override(too_long, "train.out_dir is '000|...; expected string of 1 to 1023 bytes");
    free(too_long);
    refuse_file(config_with("schedule", "\"name\": \"linear\""),
                "schedule.name is \"linear\"; expected one of: constant, cosine, wsd, trapezoidal, exp");
    refuse_file(config_with("schedule", "\"name\": \"Cosine\""), "schedule.name is \"Cosine\"; expected one of");
    refuse_file(config_with("train", "\"precision\": \"fp16\""), "expected one of: auto, float32, bfloat16");
    refuse_file(config_with("train", "\"device\": \"\""), "train.device is \"\"; expected one of: auto, cpu, cuda");
    refuse_override("--optimizer.name=adam", "optimizer.name is 'adam'; expected one of: adamw, mars-adamw,");
    refuse_override("--optimizer.name=", "mars-m, mars-m-efficient, sgd-sai, sgd-boost (= sgd-sai)");
    refuse_override("--recompute=all", "train.recompute is 'all'; expected one of: none, mlp, block");
}

/* ---- the command line ---- */

static void test_overrides(void **state) {
    (void)state;
    Config c;
    Error error;
    const char *path = config_with("schedule", "\"name\": \"cosine\", \"warmup_iters\": 10");
    assert_true(load(&c, &error, path, "--schedule.name=wsd", "--n_layer=3", "--model.bias=true",
                     "--learning_rate=1e-3", "--data.train=a=b--c.bin", "--max_iters=1e3", "--overwrite=false", NULL));
    assert_int_equal(c.schedule.name, SCHEDULE_WSD);
    assert_int_equal(c.schedule.warmup_iters, 10);
    assert_int_equal(c.schedule.lr_decay_iters, 1000);
    assert_int_equal(c.schedule.max_iters, 1000);
    assert_int_equal(c.model.n_layer, 3);
    assert_true(c.model.bias);
    assert_false(c.train.overwrite);
    assert_true(c.optimizer.learning_rate == 1e-3);
    assert_string_equal(c.data.train, "a=b--c.bin");
    assert_string_equal(accept(config_with("data", "\"hellaswag\": \"h\""), "--hellaswag=").data.hellaswag, "");
}

static void test_wrong_overrides(void **state) {
    (void)state;
    static const char *const shapes[] = {
        "other.json", "--batch_size", "-batch_size=1", "batch_size=1", "--=1", "--", "", "=", "--help"};
    for (size_t i = 0; i < ARRAY_LENGTH(shapes); i++) {
        char *parts = format_string("'%s' is not of the form --key=value", shapes[i]);
        refuse_override(shapes[i], parts);
        free(parts);
    }
    refuse_override("--name=wsd", "several sections have a key 'name'|--optimizer.name or --schedule.name");
    refuse_override("--seed=1", "several sections have a key 'seed'|--data.seed or --train.seed");
    refuse_override("--bias=1", "model.bias is '1'; expected true or false");
    refuse_override("--bias=True", "model.bias is 'True'; expected true or false");
    static const char *const numbers[] = {"",    " 1",    "1 ",  "0x10", "1,000", "inf",
                                          "nan", "1e999", "1.5", "one",  "1e",    "--1"};
    for (size_t i = 0; i < ARRAY_LENGTH(numbers); i++) {
        char *override = format_string("--eval_sequences=%s", numbers[i]);
        char *parts = format_string("train.eval_sequences is '%s'; expected integer >= 0", numbers[i]);
        refuse_override(override, parts);
        free(override);
        free(parts);
    }
    refuse_override("--eps=nan", "optimizer.eps is 'nan'; expected number > 0");
    refuse_override("--eps=inf", "optimizer.eps is 'inf'; expected number > 0");
}

/* ---- rules between keys ---- */

static void test_model_rules(void **state) {
    (void)state;
    refuse_together("--n_head=7", "model.n_embd 768 must be a multiple of model.n_head 7");
    refuse_together("--dropout=0.1", "model.dropout is 0.1|no dropout: set it to 0");
    refuse_together("--hellaswag=h.bin", "data.hellaswag|leave it empty");
    refuse_together("--batch_size=2097152", "train.batch_size 2097152 x model.block_size 1024 is more than");
    assert_int_equal(accept(valid_config(), "--batch_size=2097151").train.batch_size, 2097151);
    refuse_by(NULL, "--n_head=7", "command line: ", "data.train is missing");
}

static void test_train_rules(void **state) {
    (void)state;
    refuse_together("--max_iters=0", "train.max_iters is 0; expected at least 1, or train.eval_only true");
    refuse_together("--gradient_accumulation_steps=2",
                    "total_batch_size 480 and|gradient_accumulation_steps 2 are both");
    refuse_together("--total_batch_size=0", "give train.total_batch_size or train.gradient_accumulation_steps");
    refuse_file(config_with("train", "\"device\": \"cpu\", \"allow_tf32\": true"), "train.allow_tf32 is for GPUs");
    accept(config_with("train", "\"device\": \"auto\", \"allow_tf32\": true"), NULL);
    const char *path = config_with("train", "\"eval_only\": true");
    assert_true(accept(path, "--max_iters=0").train.eval_only);
    assert_true(accept(path, "--warmup_iters=2000").train.eval_only);
}

static void test_schedule_rules(void **state) {
    (void)state;
    static const char *const refused[][2] = {
        {"\"warmup_iters\": 101", "schedule.warmup_iters 101 must not be above train.max_iters 100"},
        {"\"name\": \"cosine\", \"warmup_iters\": 100", "lr_decay_iters 100|must be above schedule.warmup_iters 100"},
        {"\"name\": \"exp\", \"warmup_iters\": 9, \"lr_decay_iters\": 9", "schedule.lr_decay_iters 9 |above"},
        {"\"name\": \"trapezoidal\", \"warmup_iters\": 51, \"warmdown_iters\": 50",
         "51 + schedule.warmdown_iters 50|100"},
        {"\"name\": \"trapezoidal\", \"warmup_iters\": 100, \"warmdown_iters\": 2147483647", "must not be above"},
        {"\"min_lr\": 7e-4", "schedule.min_lr 0.0007 must not be above optimizer.learning_rate 0.0006"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(refused); i++)
        refuse_file(config_with("schedule", refused[i][0]), refused[i][1]);
    static const char *const good[] = {
        "\"warmup_iters\": 100",
        "\"name\": \"cosine\", \"warmup_iters\": 99",
        "\"name\": \"exp\", \"warmup_iters\": 9, \"lr_decay_iters\": 10",
        "\"name\": \"wsd\", \"warmup_iters\": 9, \"lr_decay_iters\": 9",
        "\"name\": \"trapezoidal\", \"warmup_iters\": 50, \"warmdown_iters\": 50",
        "\"min_lr\": 6e-4",
    };
    for (size_t i = 0; i < ARRAY_LENGTH(good); i++) accept(config_with("schedule", good[i]), NULL);
}

/* ---- each optimizer's settings ---- */

static const char *const optimizers[] = {"adamw",     "mars-adamw", "mars-lion",        "mars-shampoo", "muon",
                                         "moonlight", "mars-m",     "mars-m-efficient", "sgd-sai"};

/* The keys that not all optimizers have: who has them, the default, and another value, as JSON without spaces, as
 * text on the command line, and again as JSON. */
static const struct Setting {
    const char *key, *optimizers, *standard, *other, *argument, *printed;
} settings[] = {
    {"beta1", "adamw, mars-adamw, mars-lion, mars-shampoo, muon, mars-m, mars-m-efficient", "0.9", "0.75", "8e-1",
     "0.8"},
    {"beta2", "adamw, mars-adamw, mars-lion, mars-shampoo, muon", "0.95", "0.999", "0", "0"},
    {"gamma", "mars-adamw, mars-lion, mars-shampoo, mars-m, mars-m-efficient", "0.025", "0", "0.05", "0.05"},
    {"is_approx", "mars-adamw, mars-lion, mars-shampoo, mars-m", "true", "false", "false", "false"},
    {"optimize_1d", "mars-adamw, mars-lion, mars-shampoo", "false", "true", "true", "true"},
    {"lr_1d", "mars-adamw, mars-lion, mars-shampoo", "0.003", "1", "1.5e-3", "0.0015"},
    {"betas_1d", "mars-adamw, mars-lion, mars-shampoo, moonlight, mars-m, mars-m-efficient", "[0.9,0.95]", "[0,0.999]",
     "0.8,0.25", "[0.8,0.25]"},
    {"weight_decay_1d", "mars-adamw, mars-lion, mars-shampoo", "0.1", "0", "2.5", "2.5"},
    {"muon_learning_rate", "muon", "0.02", "1e-06", "1e-2", "0.01"},
    {"muon_weight_decay", "muon", "0", "0.25", "3", "3"},
    {"momentum", "muon, moonlight, sgd-sai", "0.95", "0", "0.99", "0.99"},
    {"nesterov", "muon, moonlight", "true", "false", "false", "false"},
    {"ns_steps", "mars-shampoo, muon, moonlight, mars-m, mars-m-efficient", "5", "1", "100", "100"},
    {"ns_dtype", "mars-shampoo, muon, moonlight, mars-m, mars-m-efficient", "\"auto\"", "\"float32\"", "bfloat16",
     "\"bfloat16\""},
};

/* Whether the list, with ", " between its names, has the optimizer. */
static bool listed(const char *list, const char *optimizer) {
    char *copy = checked_strdup(list), *rest = copy;
    bool found = false;
    for (char *name; (name = strsep(&rest, ","));) found = found || strcmp(name + strspn(name, " "), optimizer) == 0;
    free(copy);
    return found;
}

static const char *default_of(const struct Setting *setting, const char *optimizer) {
    bool special = strcmp(setting->key, "momentum") == 0 && strcmp(optimizer, "sgd-sai") == 0;
    return special ? "0.9" : setting->standard;
}

/* The config as JSON has "key":value. */
static void must_print(const Config *config, const char *key, const char *value) {
    char *text = config_to_json(config), *part = format_string("\"%s\":%s,", key, value);
    char *last = format_string("\"%s\":%s}", key, value);
    if (!strstr(text, part) && !strstr(text, last)) fail_msg("%s is not in %s", part, text);
    free(text);
    free(part);
    free(last);
}

static void takes_setting(const char *optimizer, const struct Setting *setting) {
    Config config = accept(config_of(optimizer, ""), NULL);
    must_print(&config, setting->key, default_of(setting, optimizer));
    char *body = format_string("\"%s\": %s", setting->key, setting->other);
    char *override = format_string("--%s=%s", setting->key, setting->argument);
    config = accept(config_of(optimizer, body), NULL);
    must_print(&config, setting->key, setting->other);
    config = accept(config_of(optimizer, body), override);
    must_print(&config, setting->key, setting->printed);
    free(body);
    free(override);
}

static void refuses_setting(const char *optimizer, const struct Setting *setting) {
    Config config = accept(config_of(optimizer, ""), NULL);
    char *text = config_to_json(&config), *shown = format_string("\"%s\":", setting->key);
    if (strstr(text, shown)) fail_msg("%s is in %s", shown, text);
    char *message = format_string("optimizer.%s: the optimizer %s has no such setting|have it: %s", setting->key,
                                  optimizer, setting->optimizers);
    char *body = format_string("\"%s\": %s", setting->key, setting->other);
    char *override = format_string("--%s=%s", setting->key, setting->argument);
    Config same = accept(config_of(optimizer, body), NULL);
    assert_memory_equal(&same, &config, sizeof config);
    refuse_by(config_of(optimizer, ""), override, "command line: ", message);
    free(text);
    free(shown);
    free(message);
    free(body);
    free(override);
}

static void test_settings_of_each_optimizer(void **state) {
    (void)state;
    assert_int_equal(ARRAY_LENGTH(optimizers), OPTIM_COUNT);
    for (size_t i = 0; i < ARRAY_LENGTH(optimizers); i++) {
        assert_int_equal(accept(config_of(optimizers[i], ""), NULL).optimizer.name, i);
        assert_string_equal(config_optimizer_name((OptimName)i), optimizers[i]);
        for (size_t k = 0; k < ARRAY_LENGTH(settings); k++)
            if (listed(settings[k].optimizers, optimizers[i]))
                takes_setting(optimizers[i], &settings[k]);
            else
                refuses_setting(optimizers[i], &settings[k]);
    }
}

/* What all optimizers have: the same keys in the same places. */
static void test_settings_of_all_optimizers(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(optimizers); i++) {
        Config c = accept(config_of(optimizers[i], "\"weight_decay\": 0.01, \"eps\": 1e-6, \"grad_clip\": 2"), NULL);
        assert_true(c.optimizer.weight_decay == 0.01 && c.optimizer.eps == 1e-6 && c.optimizer.grad_clip == 2);
        assert_true(c.optimizer.learning_rate == 0.01);
    }
}

static void test_settings_lie_in_their_fields(void **state) {
    (void)state;
    OptimConfig c = accept(config_of("mars-shampoo", "\"beta1\": 0.5, \"beta2\": 0.6, \"gamma\": 0.7, "
                                                     "\"is_approx\": false, \"optimize_1d\": true, \"lr_1d\": 0.8, "
                                                     "\"betas_1d\": [ 0.1, 2e-1 ], \"weight_decay_1d\": 0.3"),
                           NULL)
                        .optimizer;
    assert_true(c.beta1 == 0.5 && c.beta2 == 0.6 && c.gamma == 0.7 && !c.is_approx && c.optimize_1d && c.lr_1d == 0.8);
    assert_true(c.betas_1d[0] == 0.1 && c.betas_1d[1] == 0.2 && c.weight_decay_1d == 0.3);
    c = accept(config_of("muon", "\"muon_learning_rate\": 0.1, \"muon_weight_decay\": 0.2, \"momentum\": 0.3, "
                                 "\"nesterov\": false, \"ns_steps\": 7, \"ns_dtype\": \"float32\""),
               NULL)
            .optimizer;
    assert_true(c.muon_learning_rate == 0.1 && c.muon_weight_decay == 0.2 && c.momentum == 0.3 && !c.nesterov);
    assert_int_equal(c.ns_steps, 7);
    assert_int_equal(c.ns_dtype, NS_DTYPE_FLOAT32);
    assert_int_equal(accept(config_of("muon", ""), "--ns_dtype=bfloat16").optimizer.ns_dtype, NS_DTYPE_BFLOAT16);
    c = accept(config_of("adamw", ""), NULL).optimizer; /* what it does not have holds the defaults */
    assert_true(c.gamma == 0.025 && c.is_approx && !c.optimize_1d && c.lr_1d == 3e-3 && c.weight_decay_1d == 0.1);
    assert_true(c.betas_1d[0] == 0.9 && c.betas_1d[1] == 0.95 && c.muon_learning_rate == 0.02);
    assert_true(c.muon_weight_decay == 0 && c.momentum == 0.95 && c.nesterov && c.ns_steps == 5);
    assert_int_equal(c.ns_dtype, NS_DTYPE_AUTO);
}

static void test_pairs(void **state) {
    (void)state;
    static const char *const good[] = {"0.25,0.5", "[0.25,0.5]", "2.5e-1,+.5", "[0.25, 0.5]"};
    for (size_t i = 0; i < ARRAY_LENGTH(good); i++) {
        char *override = format_string("--betas_1d=%s", good[i]);
        Config c = accept(config_of("mars-m", ""), override);
        assert_true(c.optimizer.betas_1d[0] == 0.25 && c.optimizer.betas_1d[1] == 0.5);
        free(override);
    }
    static const char *const expected = "; expected 2 numbers in [0, 1): [a, b] in a file, a,b on the command line";
    static const char *const arguments[] = {
        "",        ",",         "0.9",       "0.9,",     ",0.9",      "0.9,1",    "1,0.9",       "-0.1,0.9",
        "[0.9]",   "[0.9,0.9",  "0.9,0.9]",  "[0.9,]",   "[]",        "[,]",      "0.9,0.9,0.9", "[0.9,0.9]]",
        "0.9 0.9", "0.9 ,0.95", "[[0.9,0]]", "nan,0.9",  "0.9,inf",   "0x0,0x0",  "[0.9,0.9] ",  "0.9,,0.9",
        "[",       "]",         "0.9;0.9",   "[0.9,0.9", "(0.9,0.9)", "0.9,one1", "0.9,0.9,",    "[0.9,0.9,0.9]",
    };
    for (size_t i = 0; i < ARRAY_LENGTH(arguments); i++) {
        char *override = format_string("--betas_1d=%s", arguments[i]);
        char *parts = format_string("optimizer.betas_1d is '%s'%s", arguments[i], expected);
        refuse_by(config_of("mars-m", ""), override, "command line: ", parts);
        free(override);
        free(parts);
    }
    static const char *const values[] = {"[]",      "[0.9]",        "[0.9,1]",   "[1,0.9]",           "[-0.1,0]",
                                         "0.9",     "\"0.9,0.95\"", "true",      "[0.9,0.95,0.99]",   "[0.9,\"0.9\"]",
                                         "[[0,0]]", "[0.9,null]",   "[[0],[0]]", "{\"a\":0,\"b\":0}", "null"};
    for (size_t i = 0; i < ARRAY_LENGTH(values); i++) {
        char *body = format_string("\"betas_1d\": %s", values[i]);
        char *parts = format_string("optimizer.betas_1d is %s%s", values[i], expected);
        refuse_file(config_of("mars-m", body), parts);
        free(body);
        free(parts);
    }
    refuse_file(config_of("mars-m", "\"betas_1d\": [0.9, 1e999]"), "optimizer.betas_1d is [0.9,|expected 2 numbers");
    char *endless = format_string("--betas_1d=%0*d,0.5", 5000, 0);
    refuse_by(config_of("mars-m", ""), endless, "command line: ", "betas_1d is '000|...; expected 2 numbers");
    free(endless);
    refuse_file(config_of("mars-m", "\"betas_1d\": [0.9, 0.95], \"betas_1d\": [0.9, 0.95]"), "betas_1d is given twice");
    refuse_text("{\"optimizer\": {\"betas_1d\": [0.9, ]}}", ":1:34: not JSON|at: ]}}");
}

static void test_bad_settings(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"\"gamma\": -0.1", "optimizer.gamma is -0.1; expected number >= 0"},
        {"\"gamma\": \"0.1\"", "optimizer.gamma is \"0.1\"; expected number >= 0"},
        {"\"is_approx\": 1", "optimizer.is_approx is 1; expected true or false"},
        {"\"optimize_1d\": \"no\"", "optimizer.optimize_1d is \"no\"; expected true or false"},
        {"\"lr_1d\": 0", "optimizer.lr_1d is 0; expected number > 0"},
        {"\"weight_decay_1d\": -1", "optimizer.weight_decay_1d is -1; expected number >= 0"},
        {"\"muon_learning_rate\": 0", "optimizer.muon_learning_rate is 0; expected number > 0"},
        {"\"muon_weight_decay\": -1", "optimizer.muon_weight_decay is -1; expected number >= 0"},
        {"\"momentum\": 1", "optimizer.momentum is 1; expected number in [0, 1)"},
        {"\"momentum\": -0.5", "optimizer.momentum is -0.5; expected number in [0, 1)"},
        {"\"nesterov\": null", "optimizer.nesterov is null; expected true or false"},
        {"\"ns_steps\": 0", "optimizer.ns_steps is 0; expected integer in [1, 100]"},
        {"\"ns_steps\": 101", "optimizer.ns_steps is 101; expected integer in [1, 100]"},
        {"\"ns_steps\": 5.5", "optimizer.ns_steps is 5.5; expected integer in [1, 100]"},
        {"\"ns_dtype\": \"fp32\"", "optimizer.ns_dtype is \"fp32\"; expected one of: auto, bfloat16, float32"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) refuse_file(config_of("muon", cases[i][0]), cases[i][1]);
    refuse_override("--lr_1d=-1e-3", "optimizer.lr_1d is '-1e-3'; expected number > 0");
    refuse_override("--nesterov=yes", "optimizer.nesterov is 'yes'; expected true or false");
    refuse_override("--ns_steps=five", "optimizer.ns_steps is 'five'; expected integer in [1, 100]");
    refuse_override("--ns_dtype=float64", "optimizer.ns_dtype is 'float64'; expected one of: auto, bfloat16, float32");
    refuse_file(config_of("mars", ""), "optimizer.name is \"mars\"; expected one of: adamw, mars-adamw, mars-lion");
}

/* Also where the optimizer is named on the command line, and the keys are another one's. */
static void test_another_optimizer_on_the_command_line(void **state) {
    (void)state;
    const char *path = config_of("mars-adamw", "\"gamma\": 0.05, \"beta1\": 0.95, \"betas_1d\": [0.5, 0.6]");
    Config config = accept(path, "--optimizer.name=muon");
    assert_int_equal(config.optimizer.name, OPTIM_MUON);
    assert_true(config.optimizer.beta1 == 0.95 && config.optimizer.gamma == 0.025);
    assert_true(config.optimizer.betas_1d[0] == 0.9 && config.optimizer.betas_1d[1] == 0.95);
    config = accept(path, "--optimizer.name=sgd-boost");
    assert_true(config.optimizer.beta1 == 0.9);
    refuse_by(path, "--momentum=0.5", "command line: ", "optimizer.momentum: the optimizer mars-adamw has no such");
    refuse_by(NULL, "--gamma=0.05", "command line: ", "data.train is missing");
}

static void test_sgd_boost_is_sgd_sai(void **state) {
    (void)state;
    Config sai = accept(config_of("sgd-sai", ""), NULL), boost = accept(config_of("sgd-boost", ""), NULL);
    assert_int_equal(boost.optimizer.name, OPTIM_SGD_SAI);
    assert_memory_equal(&sai, &boost, sizeof sai);
    assert_true(sai.optimizer.momentum == 0.9);
    must_print(&boost, "name", "\"sgd-sai\"");
    boost = accept(config_of("adamw", ""), "--optimizer.name=sgd-boost");
    assert_memory_equal(&sai, &boost, sizeof sai);
    assert_true(accept(config_of("sgd-sai", "\"momentum\": 0.95"), NULL).optimizer.momentum == 0.95);
    assert_true(accept(config_of("sgd-boost", ""), "--momentum=0.95").optimizer.momentum == 0.95);
    refuse_file(config_of("sgd-boos", ""), "optimizer.name is \"sgd-boos\"");
    refuse_file(config_with("schedule", "\"name\": \"sgd-boost\""), "schedule.name is \"sgd-boost\"");
}

static void test_optimizer_rules(void **state) {
    (void)state;
    const char *path = config_of("mars-m-efficient", "");
    refuse_by(path, "--beta1=0", path,
              "optimizer.beta1 is 0; mars-m-efficient divides by it: expected a number in (0, 1)");
    assert_true(accept(path, "--beta1=1e-3").optimizer.beta1 == 1e-3);
    assert_true(accept(config_of("mars-m", ""), "--beta1=0").optimizer.beta1 == 0);
    path = config_of("muon", "\"muon_learning_rate\": 1e-3");
    refuse_by(path, "--min_lr=2e-3", path,
              "schedule.min_lr 0.002 must not be above optimizer.muon_learning_rate 0.001");
    refuse_by(path, "--min_lr=2e-2", path, "schedule.min_lr 0.02 must not be above optimizer.learning_rate 0.01");
    assert_true(accept(path, "--min_lr=1e-3").schedule.min_lr == 1e-3);
    Config config; /* above muon's default, which is no matter for adamw */
    Error error;
    assert_true(load(&config, &error, config_of("adamw", ""), "--learning_rate=0.05", "--min_lr=0.04", NULL));
}

/* Everything that the reference values were computed with. */
static void test_settings_of_the_golden_files(void **state) {
    (void)state;
    glob_t files;
    assert_int_equal(glob("dev/golden/*.json", 0, NULL, &files), 0);
    bool seen[OPTIM_COUNT] = {false};
    for (size_t f = 0; f < files.gl_pathc; f++) {
        char *text = test_read_file(files.gl_pathv[f], NULL);
        cJSON *root = cJSON_Parse(text);
        assert_non_null(root);
        const cJSON *one;
        cJSON_ArrayForEach(one, cJSON_GetObjectItem(root, "cases")) {
            const cJSON *given = cJSON_GetObjectItem(one, "optimizer");
            if (!given) given = cJSON_GetObjectItem(one, "settings");
            if (!given) continue;
            char *body = cJSON_PrintUnformatted(given);
            assert_non_null(body);
            char *config =
                format_string("{\"data\": {%s}, \"optimizer\": %s, \"train\": {%s}}", needed[0][1], body, needed[2][1]);
            seen[accept(file_of(config), NULL).optimizer.name] = true;
            free(config);
            free(body);
        }
        cJSON_Delete(root);
        free(text);
    }
    globfree(&files);
    for (int i = 0; i < OPTIM_COUNT; i++)
        if (!seen[i]) fail_msg("no golden file has %s", optimizers[i]);
}

/* ---- the number of processes ---- */

static void refuse_settle(const char *total, const char *batch, int processes, const char *part) {
    Config config;
    Error error;
    assert_true(load(&config, &error, valid_config(), total, batch, NULL));
    if (config_settle(&config, processes, &error)) fail_msg("settled, although it should say '%s'", part);
    must_hold(error.text, part);
}

static void test_settle(void **state) {
    (void)state;
    Config config = accept(valid_config(), NULL);
    Error error;
    for (int again = 0; again < 2; again++) {
        assert_true(config_settle(&config, 8, &error));
        assert_int_equal(config.train.total_batch_size, 480);
        assert_int_equal(config.train.gradient_accumulation_steps, 15);
    }
    assert_true(load(&config, &error, valid_config(), "--total_batch_size=0", "--gradient_accumulation_steps=5", NULL));
    assert_true(config_settle(&config, 3, &error));
    assert_int_equal(config.train.total_batch_size, 60);
    assert_int_equal(config.train.gradient_accumulation_steps, 5);
    assert_false(config_settle(&config, 0, &error));
}

static void test_settle_lists_what_fits(void **state) {
    (void)state;
    refuse_settle("--total_batch_size=480", "--batch_size=7", 8,
                  "train.batch_size that fit: 1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 60");
    refuse_settle("--total_batch_size=36", "--batch_size=36", 4, "train.batch_size that fit: 1, 3, 9");
    refuse_settle("--total_batch_size=12", "--batch_size=1", 5,
                  "5 processes, whatever the batch size; "
                  "numbers of processes that divide it: 1, 2, 3, 4, 6, 12");
    refuse_settle("--total_batch_size=1", "--batch_size=2", 1, "train.batch_size that fit: 1");
    refuse_settle("--total_batch_size=2147483647", "--batch_size=2", 1, "train.batch_size that fit: 1, 2147483647");
    refuse_settle("--total_batch_size=2095133040", "--batch_size=1000003", 1, ", ...");
    refuse_settle("--total_batch_size=480", "--batch_size=2000000", 2147483647, "whatever the batch size");
}

static void test_settle_overflow(void **state) {
    (void)state;
    Config config;
    Error error;
    assert_true(load(&config, &error, valid_config(), "--total_batch_size=0",
                     "--gradient_accumulation_steps=2147483647", "--batch_size=1", NULL));
    assert_false(config_settle(&config, 2, &error));
    must_hold(error.text, "gradient_accumulation_steps 2147483647 is more than 2147483647 sequences");
    assert_false(config_settle(&config, 2147483647, &error));
    assert_true(config_settle(&config, 1, &error));
    assert_int_equal(config.train.total_batch_size, 2147483647);
}

/* ---- back to text ---- */

/* Writes the config as JSON and loads that again. */
static Config reloaded(const Config *config) {
    char *text = config_to_json(config);
    const char *path = test_path("again.json");
    test_write_text(path, text);
    Config again;
    Error error;
    if (!load(&again, &error, path, NULL)) fail_msg("%s in %s", error.text, text);
    char *second = config_to_json(&again);
    assert_string_equal(text, second);
    free(text);
    free(second);
    return again;
}

static void test_round_trip(void **state) {
    (void)state;
    Config config = accept(valid_config(), NULL), again = reloaded(&config);
    assert_memory_equal(&config, &again, sizeof config);
    Error error;
    assert_true(load(&config, &error, valid_config(), "--learning_rate=0.30000000000000004", "--eps=5e-324",
                     "--weight_decay=1.7976931348623157e308", "--data.seed=18446744073709551615",
                     "--train.seed=9007199254740992", "--data.train=a \"b\" \\ // \t\x01 \xC3\xA9 /* */", "--bias=true",
                     "--schedule.name=trapezoidal", "--gradient_scale=0.1", "--device=cpu", "--order=sequential",
                     NULL));
    again = reloaded(&config);
    assert_memory_equal(&config, &again, sizeof config);
    assert_true(again.data.seed == UINT64_MAX && again.optimizer.eps == 5e-324);
    assert_true(load(&config, &error, valid_config(), "--train.seed=9007199254740991", "--init_from=x", NULL));
    again = reloaded(&config);
    assert_memory_equal(&config, &again, sizeof config);
}

/* All settings that an optimizer has, each with another value than its default. */
static void test_round_trip_of_each_optimizer(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(optimizers); i++) {
        Config config = accept(config_of(optimizers[i], ""), NULL), again = reloaded(&config);
        assert_memory_equal(&config, &again, sizeof config);
        char *body = checked_strdup("\"eps\": 0.30000000000000004");
        for (size_t k = 0; k < ARRAY_LENGTH(settings); k++) {
            if (!listed(settings[k].optimizers, optimizers[i])) continue;
            char *longer = format_string("%s, \"%s\": %s", body, settings[k].key, settings[k].other);
            free(body);
            body = longer;
        }
        config = accept(config_of(optimizers[i], body), NULL);
        again = reloaded(&config);
        assert_memory_equal(&config, &again, sizeof config);
        free(body);
    }
    Config config = accept(config_of("moonlight", ""), "--betas_1d=0.30000000000000004,4.9406564584124654e-324");
    Config again = reloaded(&config);
    assert_memory_equal(&config, &again, sizeof config);
    assert_true(again.optimizer.betas_1d[0] == 0.30000000000000004 && again.optimizer.betas_1d[1] == 5e-324);
}

static void test_round_trip_when_settled(void **state) {
    (void)state;
    Config config, again;
    Error error;
    assert_true(load(&config, &error, valid_config(), "--total_batch_size=0", "--gradient_accumulation_steps=5", NULL));
    again = reloaded(&config);
    assert_memory_equal(&config, &again, sizeof config);
    assert_true(config_settle(&config, 3, &error));
    again = reloaded(&config);
    assert_true(config_settle(&again, 3, &error));
    assert_memory_equal(&config, &again, sizeof config);
    assert_int_equal(again.train.total_batch_size, 60);
}

/* Bytes behind a string's end, and padding, must not depend on what was there before. */
static void test_equal_configs_are_equal_bytes(void **state) {
    (void)state;
    Config a, b;
    memset(&a, 0x55, sizeof a);
    memset(&b, 0xAA, sizeof b);
    Error error;
    const char *path = config_with("train", "\"init_from\": \"a/very/long/path/to/a/checkpoint\"");
    assert_true(load(&a, &error, path, "--init_from=auto", NULL));
    assert_true(load(&b, &error, valid_config(), "--init_from=auto", NULL));
    assert_memory_equal(&a, &b, sizeof a);
}

/* ---- the table and --help ---- */

static void test_every_key_is_in_the_table(void **state) {
    (void)state;
    static const char *const keys =
        "model n_layer n_head n_embd block_size vocab_size bias dropout scale_attn_by_inverse_layer_idx;"
        "data train val hellaswag order seed;"
        "optimizer name learning_rate weight_decay beta1 beta2 eps grad_clip gamma is_approx optimize_1d lr_1d "
        "betas_1d weight_decay_1d muon_learning_rate muon_weight_decay momentum nesterov ns_steps ns_dtype;"
        "schedule name warmup_iters lr_decay_iters min_lr warmdown_iters;"
        "train max_iters total_batch_size gradient_accumulation_steps batch_size gradient_scale eval_interval "
        "eval_sequences eval_only log_interval checkpoint_interval keep_checkpoints out_dir overwrite init_from seed "
        "device precision allow_tf32 threads recompute";
    char *list = checked_strdup(keys), *rest = list;
    for (char *line; (line = strsep(&rest, ";"));) {
        const char *section = strsep(&line, " ");
        assert_true(config_section_exists(section));
        for (char *name; (name = strsep(&line, " "));)
            if (config_key_find(section, name) < 0) fail_msg("%s.%s is missing", section, name);
    }
    free(list);
}

static size_t field_size(const ConfigKey *key) {
    static const size_t sizes[] = {
        [CONFIG_BOOL] = sizeof(bool),           [CONFIG_INT] = sizeof(int),         [CONFIG_SEED] = sizeof(uint64_t),
        [CONFIG_NUMBER] = sizeof(double),       [CONFIG_PAIR] = 2 * sizeof(double), [CONFIG_CHOICE] = sizeof(unsigned),
        [CONFIG_STRING] = CONFIG_STRING_LENGTH,
    };
    return sizes[key->type];
}

static void test_table_is_consistent(void **state) {
    (void)state;
    for (int i = 0; i < config_key_count; i++) {
        const ConfigKey *a = &config_keys[i];
        assert_int_equal(config_key_find(a->section, a->name), i);
        assert_int_equal(config_key_nearest(a->section, a->name), i);
        assert_string_equal(config_section_nearest(a->section), a->section);
        assert_true(a->help[0] && a->offset + field_size(a) <= sizeof(Config));
        assert_true((a->type == CONFIG_CHOICE) == (a->choices != NULL));
        if (a->type == CONFIG_INT || a->type == CONFIG_NUMBER || a->type == CONFIG_PAIR)
            assert_true(a->minimum < a->maximum);
        if (a->optimizers) {
            assert_string_equal(a->section, "optimizer");
            assert_true(a->optimizers < 1u << OPTIM_COUNT && a->default_text);
        }
        for (int j = 0; j < i; j++) {
            const ConfigKey *b = &config_keys[j];
            assert_true(b->offset + field_size(b) <= a->offset || a->offset + field_size(a) <= b->offset);
            if (strcmp(a->section, b->section) == 0) assert_string_equal(a->section, config_keys[i - 1].section);
        }
    }
}

static void test_help(void **state) {
    (void)state;
    const char *path = test_path("help.txt");
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    config_print_help(file);
    fclose(file);
    char *text = test_read_file(path, NULL), *rest = text, section[64] = "";
    int next = 0;
    for (char *line; (line = strsep(&rest, "\n"));) {
        if (strlen(line) > 120) fail_msg("longer than 120 columns: %s", line);
        char name[64], more[200] = "";
        if (config_section_exists(line)) snprintf(section, sizeof section, "%s", line);
        if (next == config_key_count || sscanf(line, "  %63s %199[^\n]", name, more) != 2) continue;
        const ConfigKey *key = &config_keys[next];
        if (strncmp(line, "  ", 2) != 0 || strcmp(name, key->name) != 0) continue;
        assert_string_equal(section, key->section);
        must_hold(more, key->help);
        must_hold(more, !key->default_text ? " required " : key->default_text);
        next++;
    }
    if (next < config_key_count) fail_msg("--help does not list %s", config_keys[next].name);
    free(text);
    text = test_read_file(path, NULL);
    must_hold(text, "one of: constant, cosine, wsd, trapezoidal, exp\n");
    must_hold(text, "number in [0, 1)");
    must_hold(text,
              "eval_interval                   integer >= 0          1000      steps between evaluations; 0 = never");
    must_hold(text, "mars-m,\n                                  mars-m-efficient, sgd-sai, sgd-boost (= sgd-sai)\n");
    must_hold(text, "betas_1d                        2 numbers in [0, 1)   0.9,0.95  beta1, beta2 of AdamW");
    must_hold(text, "looks a step ahead\n                                  only: muon, moonlight\n");
    must_hold(text, "one of: auto, bfloat16, float32\n                                  only: mars-shampoo, muon,");
    free(text);
}

/* ---- anything at all ---- */

static uint32_t next_random(uint64_t *random) {
    *random = *random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*random >> 33);
}

/* Changes a few places of the text: bytes replaced, removed, doubled, or the rest cut off. Returns the new length. */
static size_t mutate(char *text, size_t length, uint64_t *random) {
    static const char special[] = "\"\\/*{}[],:\n\r\t 0u-.eE\0\x80\xff\xef";
    for (uint32_t times = 1 + next_random(random) % 4; times > 0 && length > 1; times--) {
        size_t at = next_random(random) % length;
        switch (next_random(random) % 5) {
        case 0:
            text[at] = (char)next_random(random);
            break;
        case 1:
            text[at] = special[next_random(random) % (sizeof special - 1)];
            break;
        case 2:
            memmove(text + at, text + at + 1, --length - at);
            break;
        case 3:
            memmove(text + at + 1, text + at, length++ - at);
            break;
        default:
            length = next_random(random) % 8 ? length : at;
            break;
        }
    }
    return length;
}

/* Whatever is in the file, loading ends, with a config that survives a round trip or with a message. */
static void test_mutations(void **state) {
    (void)state;
    enum { TRIALS = 8000, ROOM = 16 };
    static const char start[] =
        "// a run\n{\"model\": {\"n_layer\": 2, \"n_head\": 2, \"n_embd\": 64, \"bias\": true}, /* data */\n"
        "\"data\": {\"train\": \"a//b\\u00e9\\\\\", \"val\": \"v\", \"order\": \"shuffled\", \"seed\": \"77\"},\r\n"
        "\"optimizer\": {\"name\": \"mars-m\", \"learning_rate\": 6.5e-4, \"betas_1d\": [0.9, 1e-2]},\n"
        "\"schedule\": {\"name\": \"cosine\", \"warmup_iters\": 5, \"min_lr\": 1e-5}, // rate\n"
        "\"train\": {\"max_iters\": 100, \"total_batch_size\": 8, \"batch_size\": 2, \"out_dir\": \"o\"}}\n";
    uint64_t random = 12345;
    int accepted = 0;
    for (int trial = 0; trial < TRIALS; trial++) {
        char text[sizeof start + ROOM];
        memcpy(text, start, sizeof start);
        size_t length = trial == 0 ? sizeof start - 1 : mutate(text, sizeof start - 1, &random);
        const char *path = test_path("mutated.json");
        test_write_file(path, text, length);
        Config config;
        Error error;
        if (load(&config, &error, path, NULL)) {
            Config again = reloaded(&config);
            assert_memory_equal(&config, &again, sizeof config);
            accepted++;
        } else if (strncmp(error.text, path, strlen(path)) != 0) {
            fail_msg("trial %d: the message does not name the file: %s", trial, error.text);
        }
    }
    assert_in_range(accepted, TRIALS / 20, TRIALS / 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_values_of_a_file),
        cmocka_unit_test(test_comments),
        cmocka_unit_test(test_line_ends_and_byte_order_mark),
        cmocka_unit_test(test_files_that_cannot_be_read),
        cmocka_unit_test(test_empty_files),
        cmocka_unit_test(test_syntax_errors_name_the_place),
        cmocka_unit_test(test_binary_files),
        cmocka_unit_test(test_nesting_bomb),
        cmocka_unit_test(test_sections),
        cmocka_unit_test(test_unknown_keys),
        cmocka_unit_test(test_duplicate_keys),
        cmocka_unit_test(test_required_keys),
        cmocka_unit_test(test_wrong_types),
        cmocka_unit_test(test_numbers_out_of_range),
        cmocka_unit_test(test_seeds),
        cmocka_unit_test(test_strings_and_choices),
        cmocka_unit_test(test_overrides),
        cmocka_unit_test(test_wrong_overrides),
        cmocka_unit_test(test_model_rules),
        cmocka_unit_test(test_train_rules),
        cmocka_unit_test(test_schedule_rules),
        cmocka_unit_test(test_settings_of_each_optimizer),
        cmocka_unit_test(test_settings_of_all_optimizers),
        cmocka_unit_test(test_settings_lie_in_their_fields),
        cmocka_unit_test(test_pairs),
        cmocka_unit_test(test_bad_settings),
        cmocka_unit_test(test_another_optimizer_on_the_command_line),
        cmocka_unit_test(test_sgd_boost_is_sgd_sai),
        cmocka_unit_test(test_optimizer_rules),
        cmocka_unit_test(test_settings_of_the_golden_files),
        cmocka_unit_test(test_settle),
        cmocka_unit_test(test_settle_lists_what_fits),
        cmocka_unit_test(test_settle_overflow),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_round_trip_of_each_optimizer),
        cmocka_unit_test(test_round_trip_when_settled),
        cmocka_unit_test(test_equal_configs_are_equal_bytes),
        cmocka_unit_test(test_every_key_is_in_the_table),
        cmocka_unit_test(test_table_is_consistent),
        cmocka_unit_test(test_help),
        cmocka_unit_test(test_mutations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
