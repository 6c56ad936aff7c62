/* test_config.c: the config parser: files, keys, values, the command line. What it accepts must be read exactly; what
 * it refuses must be refused with a message that names the place and what would be right. Messages are compared by the
 * parts that a user needs. Keys that do not go together: test_config_rules.c; a model that comes with weights:
 * test_config_model.c. */
#include "dev/test/config/config_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config_keys.h"
#include "dev/test/model/small_model.h"

/* ---- what is read ---- */

/* Every default, and the form of config_to_json: sections and keys in the table's order, on one line. */
static void test_defaults(void **state) {
    (void)state;
    Config config = accepted(valid_config(), NULL);
    char *text = config_to_json(&config);
    assert_string_equal(
        text, "{\"model\":{\"n_layer\":12,\"n_head\":12,\"n_embd\":768,\"block_size\":1024,\"vocab_size\":50304,"
              "\"bias\":false,\"dropout\":0,\"scale_attn_by_inverse_layer_idx\":true,\"position\":\"learned\","
              "\"norm\":\"layernorm\",\"norm_gain\":true,\"norm_eps\":1e-05,"
              "\"norm_embedding\":false,\"qk_norm\":false,\"activation\":\"gelu\","
              "\"tie_embeddings\":true,\"lm_head_bias\":false,\"attention_scale\":0,\"attention_output_scale\":1,"
              "\"logit_softcap\":0,\"init\":\"gpt2\",\"zero_init_projections\":false,\"zero_init_lm_head\":false},"
              "\"data\":{\"train\":\"t.bin\",\"val\":\"v.bin\",\"hellaswag\":\"\",\"order\":\"random\",\"seed\":5000},"
              "\"optimizer\":{\"name\":\"adamw\",\"learning_rate\":0.0006,\"weight_decay\":0.1,"
              "\"cautious_weight_decay\":false,\"beta1\":0.9,"
              "\"beta2\":0.95,\"eps\":1e-08,\"grad_clip\":1},"
              "\"schedule\":{\"name\":\"constant\",\"warmup_iters\":0},"
              "\"train\":{\"max_iters\":100,\"total_batch_size\":480,\"batch_size\":4,\"gradient_scale\":1,"
              "\"eval_interval\":1000,\"eval_sequences\":0,\"eval_only\":false,\"log_interval\":10,"
              "\"norms_interval\":0,\"sample_interval\":0,\"checkpoint_interval\":1000,\"keep_checkpoints\":2,\"out_"
              "dir\":\"out\","
              "\"overwrite\":false,"
              "\"init_from\":\"scratch\",\"seed\":5000,\"device\":\"auto\",\"precision\":\"auto\","
              "\"allow_tf32\":false,\"threads\":0,\"recompute\":\"none\",\"debug_alloc\":false,"
              "\"ema_start\":0}}");
    free(text);
    const GPT2Config gpt2 = gpt2_config(12, 12, 768, 1024, 50304);
    assert_same_model(&config.model, &gpt2);
    assert_true(config.model.init == MODEL_INIT_GPT2 && !config.model.zero_init_projections);
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
    Config c = accepted(config_with("schedule", "\"name\": \"exp\", \"warmup_iters\": 1e1, \"min_lr\": 3e-5"), NULL);
    assert_int_equal(c.schedule.name, SCHEDULE_EXP);
    assert_int_equal(c.schedule.warmup_iters, 10);
    assert_true(c.schedule.min_lr == 3e-5);
    c = accepted(
        config_with("train",
                    "\"gradient_scale\": 12, \"device\": \"cuda\", \"precision\": \"bfloat16\", "
                    "\"allow_tf32\": true, \"recompute\": \"block\", \"debug_alloc\": true, \"eval_interval\": 0"),
        NULL);
    assert_true(c.optimizer.gradient_scale == 12);
    assert_int_equal(c.train.device, DEVICE_CUDA);
    assert_int_equal(c.train.precision, PRECISION_BFLOAT16);
    assert_int_equal(c.train.recompute, RECOMPUTE_BLOCK);
    assert_true(c.train.allow_tf32);
    assert_true(c.train.debug_alloc);
    assert_int_equal(c.train.eval_interval, 0);
    c = accepted(config_with("data", "\"order\": \"shuffled\", \"seed\": 9007199254740991"), NULL);
    assert_int_equal(c.data.order, ORDER_SHUFFLED);
    assert_true(c.data.seed == 9007199254740991u);
    c = accepted(config_with("data", "\"seed\": \"18446744073709551615\""), NULL);
    assert_true(c.data.seed == UINT64_MAX);
    /* modded-nanogpt's model of 2026 */
    c = accepted(config_with("model", "\"n_head\": 6, \"bias\": true, \"scale_attn_by_inverse_layer_idx\": false, "
                                      "\"position\": \"rope-half\", \"rope_base\": 1024, \"norm\": \"rmsnorm\", "
                                      "\"norm_eps\": 1.1920929e-07, \"norm_embedding\": true, \"qk_norm\": true, "
                                      "\"activation\": \"relu2\", \"tie_embeddings\": false, \"lm_head_bias\": true, "
                                      "\"attention_scale\": 0.12, \"logit_softcap\": 15, \"init\": \"fan-in\", "
                                      "\"zero_init_projections\": true, \"zero_init_lm_head\": true"),
                 "--attention_output_scale=0.5");
    assert_int_equal(c.model.position, POSITION_ROPE_HALF);
    assert_int_equal(c.model.norm, NORM_RMSNORM);
    assert_int_equal(c.model.activation, ACTIVATION_RELU2);
    assert_int_equal(c.model.init, MODEL_INIT_FAN_IN);
    assert_true(c.model.rope_base == 1024 && c.model.norm_eps == 1.1920929e-07 && c.model.norm_gain);
    assert_true(c.model.norm_embedding && c.model.qk_norm && !c.model.tie_embeddings && c.model.lm_head_bias);
    assert_true(c.model.attention_scale == 0.12 && c.model.attention_output_scale == 0.5);
    assert_true(c.model.logit_softcap == 15 && c.model.zero_init_projections && c.model.zero_init_lm_head);
    assert_int_equal(accepted(valid_config(), "--init=torch").model.init, MODEL_INIT_TORCH);
}

static void test_comments(void **state) {
    (void)state;
    const char *path = file_of("// first\n/**//***/ {/* \" */\"data\": { // it's \"here\" /* {\n"
                               "  \"train\" /* : */ : /*\n*/ \"http://a//b/*c*/d\", \"val\": \"q\\\"//\\\\\" // \\\n"
                               "}, \"optimizer\": {\"name\": \"adamw\",/**/\"learning_rate\": 1/*2*/},\n"
                               "\"train\": {\"max_iters\": 5, \"total_batch_size\": 1, \"batch_size\": 1, "
                               "\"out_dir\": \"/*\"}}//end");
    Config c = accepted(path, NULL);
    assert_string_equal(c.data.train, "http://a//b/*c*/d");
    assert_string_equal(c.data.val, "q\"//\\");
    assert_string_equal(c.train.out_dir, "/*");
    assert_true(c.optimizer.learning_rate == 1);
}

static void test_line_ends_and_byte_order_mark(void **state) {
    (void)state;
    Config plain = accepted(valid_config(), NULL);
    Config windows =
        accepted(file_of("\xEF\xBB\xBF{\r\n// note\r\n\"data\": {\"train\": \"t.bin\",\r\n\"val\": \"v.bin\"},"
                         "\r\n\"optimizer\": {\"name\": \"adamw\", \"learning_rate\": 6e-4}, /* a\r\nb */\r\n"
                         "\"train\": {\"max_iters\": 100, \"total_batch_size\": 480,\r\n"
                         "\"batch_size\": 4, \"out_dir\": \"out\"}}\r\n"),
                 NULL);
    assert_same_config(&plain, &windows);
    refuse_text("{\r\n\"data\": {}\r\n\"train\": {}}\r\n", ":3:1: ");
}

/* ---- files that are no config ---- */

static void test_files_that_cannot_be_read(void **state) {
    (void)state;
    refuse_file(test_path("missing.json"), "cannot open|No such file");
    refuse_file(test_folder(), "a folder; expected a config file; give the one in it");
    refuse_file("small_mars", "small_mars: cannot open the config: No such file|; there is config/small_mars.json");
    refuse_file("small_mars.json", "No such file or directory; there is config/small_mars.json");
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
    refuse_file(path, "UTF-16 text; expected UTF-8");
    test_write_file(path, "\xfe\xff\0{", 4);
    refuse_file(path, "UTF-16 text; expected UTF-8");
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
    refuse_text("{\"model\": 12}", "section model is not an object");
    refuse_text("{\"model\": [\"n_layer\"]}", "section model is not an object");
    refuse_text("{\"data\": null}", "section data is not an object");
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
    assert_false(load_config(&config, &error, valid_config(), "--n_layer=1", "--model.n_layer=2", NULL));
    must_hold(error.text, "command line: model.n_layer is given twice");
    assert_true(load_config(&config, &error, valid_config(), "--data.seed=1", "--train.seed=2", NULL));
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
        bool ok = config_load(&config, NULL, count, list, &error);
        if (missing == ARRAY_LENGTH(required)) {
            assert_true(ok);
            assert_string_equal(config.train.out_dir, "o");
        } else {
            assert_false(ok);
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
        {"train", "\"norms_interval\": \"10\"", "train.norms_interval is \"10\"; expected integer >= 0"},
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
        {"model", "\"attention_scale\": 1e39", "model.attention_scale is 1e+39; expected number >= 0"},
        {"model", "\"norm_eps\": 1e-50", "model.norm_eps is 1e-50; expected number in (0, 1)"},
        {"model", "\"dropout\": 0.99999999999", "model.dropout is 0.99999999999; expected number in [0, 1)"},
        {"model", "\"logit_softcap\": 2e19",
         "model.logit_softcap is 2e+19; expected 0 for none, or a number from 1e-6"},
        {"optimizer", "\"beta2\": 0.9999999999", "optimizer.beta2 is 0.9999999999; expected number in [0, 1)"},
        {"model", "\"rope_base\": 1", "model.rope_base is 1; expected number > 1"},
        {"model", "\"rope_base\": -10000", "model.rope_base is -10000; expected number > 1"},
        {"model", "\"norm_eps\": 0", "model.norm_eps is 0; expected number in (0, 1)"},
        {"model", "\"norm_eps\": 1", "model.norm_eps is 1; expected number in (0, 1)"},
        {"model", "\"qk_norm_eps\": -1e-7", "model.qk_norm_eps is -1e-07; expected number in (0, 1)"},
        {"model", "\"attention_scale\": -0.12", "model.attention_scale is -0.12; expected number >= 0"},
        {"model", "\"attention_output_scale\": 0", "model.attention_output_scale is 0; expected number > 0"},
        {"model", "\"logit_softcap\": -15", "model.logit_softcap is -15; expected number >= 0"},
        {"model", "\"logit_softcap\": 1e999", "model.logit_softcap is inf; expected number >= 0"},
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
        {"train", "\"norms_interval\": -1", "train.norms_interval is -1; expected integer >= 0"},
        {"train", "\"ema_start\": -1", "train.ema_start is -1; expected integer >= 0"},
        {"train", "\"ema_decay\": 1", "train.ema_decay is 1; expected number in [0, 1)"},
        {"train", "\"ema_decay\": -0.5", "train.ema_decay is -0.5; expected number in [0, 1)"},
        {"train", "\"ema_mix\": 1.5", "train.ema_mix is 1.5; expected number in [0, 1]"},
        {"train", "\"eval_interval\": -1", "train.eval_interval is -1; expected integer >= 0"},
        {"train", "\"threads\": 5000", "train.threads is 5000; expected integer in [0, 4096]"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) refuse_file(config_with(cases[i][0], cases[i][1]), cases[i][2]);
    assert_int_equal(accepted(valid_config(), "--eval_interval=2147483647").train.eval_interval, 2147483647);
    assert_int_equal(accepted(valid_config(), "--vocab_size=65536").model.vocab_size, 65536);
    assert_true(accepted(valid_config(), "--beta1=0").optimizer.beta1 == 0);
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
    assert_true(accepted(valid_config(), "--train.seed=18446744073709551615").train.seed == UINT64_MAX);
    assert_true(accepted(valid_config(), "--train.seed=9007199254740993").train.seed == 9007199254740993u);
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
    assert_string_equal(accepted(valid_config(), longest).train.out_dir, longest + strlen("--out_dir="));
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
    refuse_override("--optimizer.name=",
                    "mars-m, mars-m-efficient, sgd-sai, normuon, mars-normuon, sgd-boost (= sgd-sai)");
    refuse_override("--recompute=all", "train.recompute is 'all'; expected one of: none, mlp, block");
    refuse_override("--position=rotary", "model.position is 'rotary'; expected one of: learned, rope, rope-half");
    refuse_override("--norm=layer_norm", "model.norm is 'layer_norm'; expected one of: layernorm, rmsnorm");
    refuse_override("--activation=relu", "model.activation is 'relu'; expected one of: gelu, relu2");
    refuse_override("--init=normal", "model.init is 'normal'; expected one of: gpt2, torch, fan-in");
    refuse_file(config_with("model", "\"norm\": true"), "model.norm is true; expected one of: layernorm, rmsnorm");
}

/* ---- the command line ---- */

static void test_overrides(void **state) {
    (void)state;
    Config c;
    Error error;
    const char *path = config_with("schedule", "\"name\": \"cosine\", \"warmup_iters\": 10");
    assert_true(load_config(&c, &error, path, "--schedule.name=wsd", "--n_layer=3", "--model.bias=true",
                            "--learning_rate=1e-3", "--data.train=a=b--c.bin", "--max_iters=1e3", "--overwrite=false",
                            NULL));
    assert_int_equal(c.schedule.name, SCHEDULE_WSD);
    assert_int_equal(c.schedule.warmup_iters, 10);
    assert_int_equal(c.schedule.lr_decay_iters, 1000);
    assert_int_equal(c.schedule.max_iters, 1000);
    assert_int_equal(c.model.n_layer, 3);
    assert_true(c.model.bias);
    assert_false(c.train.overwrite);
    assert_true(c.optimizer.learning_rate == 1e-3);
    assert_string_equal(c.data.train, "a=b--c.bin");
    assert_string_equal(accepted(config_with("data", "\"hellaswag\": \"h\""), "--hellaswag=").data.hellaswag, "");
}

/* Each with what the user meant. */
static void test_overrides_in_another_form(void **state) {
    (void)state;
    refuse_override("--batch_size",
                    "'--batch_size' is not of the form --key=value: write --batch_size=VALUE, integer >= 1");
    refuse_override("--train.out_dir", "write --train.out_dir=VALUE, string of 1 to 1023 bytes");
    refuse_override("--overwrite", "write --overwrite=VALUE, true or false");
    refuse_override("-batch_size=1", "write --batch_size=1");
    refuse_override("batch_size=1", "write --batch_size=1");
    refuse_override("--seed", "--help lists the keys");
    refuse_override("7", "--help lists the keys");
}

/* The home folder is put in where a path begins with "~", and only there. */
static void test_home_in_paths(void **state) {
    (void)state;
    const char *home = getenv("HOME");
    char *before = checked_strdup(home ? home : "");
    setenv("HOME", "/home/me", 1);
    Config c = accepted(config_with("train", "\"init_from\": \"~/gpt2\""), NULL);
    assert_string_equal(c.train.init_from, "/home/me/gpt2");
    assert_string_equal(accepted(valid_config(), "--init_from=~").train.init_from, "/home/me");
    assert_string_equal(accepted(valid_config(), "--init_from=a/~/b").train.init_from, "a/~/b");
    refuse_text("{\"data\": {\"train\": \"~\"}, \"train\": {\"out_dir\": 7}}", "train.out_dir is 7");
    Config again = reloaded(&c);
    assert_same_config(&c, &again);
    char *long_home = format_string("/%0*d", CONFIG_STRING_LENGTH, 7);
    setenv("HOME", long_home, 1);
    refuse_override("--init_from=~", "train.init_from is '~'; expected string of 1 to 1023 bytes");
    free(long_home);
    if (home)
        setenv("HOME", before, 1);
    else
        unsetenv("HOME");
    free(before);
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

/* ---- messages ---- */

/* What a message about the config says, in this order: where, what was found, what was expected, what to do. */
static void test_parts_of_messages(void **state) {
    (void)state;
    static const char *const files[][3] = {
        {"model", "\"n_layers\": 2", "no key 'model.n_layers'|nearest is model.n_layer;|--help lists all"},
        {"model", "\"n_layer\": 0", "model.n_layer is 0|expected integer in [1, 1024]|--help explains the key"},
        {"train", "\"precision\": \"fp16\"", "is \"fp16\"|expected one of: auto, float32|--help explains the key"},
        {"model", "\"n_head\": 7", "n_embd 768|a multiple of n_head 7|set n_head to 6, for example"},
        {"model", "\"position\": \"rope\", \"n_embd\": 36", "odd head size 3|rotates pairs|choose sizes"},
        {"model", "\"position\": \"rope-half\", \"n_embd\": 48", "head size 4|at least 8|choose other sizes"},
        {"model", "\"lm_head_bias\": true", "are both true|only an LM head of its own|set tie_embeddings"},
        {"model", "\"zero_init_lm_head\": true", "are both true|must not start as zero|set tie_embeddings"},
        {"train", "\"gradient_accumulation_steps\": 2", "are both given|give one of them|0 takes the other back"},
        {"train", "\"allow_tf32\": true, \"device\": \"cpu\"", "is true and|a mode of GPUs|set train.allow_tf32"},
        {"train", "\"ema_start\": 100", "train.ema_start 100|below train.max_iters 100|lower train.ema_start"},
        {"schedule", "\"warmup_iters\": 101", "warmup_iters 101|not be above train.max_iters 100|lower schedule."},
        {"schedule", "\"name\": \"cosine\", \"min_lr\": 1", "min_lr 1|not be above optimizer.learning_rate|lower "},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(files); i++) {
        const char *path = config_with(files[i][0], files[i][1]);
        char *parts = format_string("%s|%s", path, files[i][2]);
        refuse_in_four_parts(path, NULL, parts);
        free(parts);
    }
    static const char *const overrides[][2] = {
        {"--batch_sise=2", "no key 'batch_sise'|nearest is train.batch_size|train_gpt2 --help lists all"},
        {"--batch_size=two", "train.batch_size is 'two'|expected integer >= 1|train_gpt2 --help explains the key"},
        {"--batch_size", "'--batch_size'|not of the form --key=value|write --batch_size=VALUE"},
        {"--seed=1", "several sections|have a key 'seed'|write --data.seed or --train.seed"},
        {"--total_batch_size=0", "are missing or 0|at least 1|give train.total_batch_size"},
        {"--muon_beta2=0.5", "optimizer.muon_beta2: the optimizer adamw|has no such setting|remove it"},
        {"--init_from=Auto", "train.init_from is 'Auto'|write auto|or ./Auto for a file"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(overrides); i++) {
        char *parts = format_string("command line: |%s", overrides[i][1]);
        refuse_in_four_parts(valid_config(), overrides[i][0], parts);
        free(parts);
    }
    static const char *const texts[][2] = {
        {"", "is empty|expected an object of sections|config/quickstart.json is an example"},
        {"[]", "is not an object|expected an object of sections|config/quickstart.json is an example"},
        {"{\"mode\": {}}", "no section 'mode'|nearest is model|--help lists all"},
        {"{\"model\": 12}", "model is not an object|expected {\"key\": value, ...}|--help lists keys"},
        {"{\"base\": 1}", "base is 1|the path of a config file|such as \"base/small.json\""},
        {"{\"base\": \"none.json\"}", "cannot open|relative to the folder of|correct base"},
        {"{}", "data.train is missing|tokens to train on|give it in the file or as --data.train=VALUE"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(texts); i++) {
        const char *path = file_of(texts[i][0]);
        char *parts = format_string("%s|%s", path, texts[i][1]);
        refuse_in_four_parts(path, NULL, parts);
        free(parts);
    }
    refuse_in_four_parts(test_path("missing.json"), NULL, "missing.json|No such file|expected a JSON file|--list");
    refuse_in_four_parts(test_folder(), NULL, ": |a folder|expected a config file|give the one in it");
}

/* ---- back to text ---- */

static void test_round_trip(void **state) {
    (void)state;
    Config config = accepted(valid_config(), NULL), again = reloaded(&config);
    assert_same_config(&config, &again);
    Error error;
    assert_true(load_config(&config, &error, valid_config(), "--learning_rate=0.30000000000000004", "--eps=2e-38",
                            "--weight_decay=3.4028234663852886e38", "--data.seed=18446744073709551615",
                            "--train.seed=9007199254740992", "--data.train=a \"b\" \\ // \t\x01 \xC3\xA9 /* */",
                            "--bias=true", "--schedule.name=trapezoidal", "--gradient_scale=0.1", "--device=cpu",
                            "--order=sequential", "--position=rope", "--norm=rmsnorm", "--qk_norm=true",
                            "--qk_norm_eps=1.1920928955078125e-07", NULL));
    again = reloaded(&config);
    assert_same_config(&config, &again);
    assert_true(again.data.seed == UINT64_MAX && again.optimizer.eps == 2e-38);
    assert_true(load_config(&config, &error, valid_config(), "--train.seed=9007199254740991", "--init_from=x", NULL));
    again = reloaded(&config);
    assert_same_config(&config, &again);
}

static void test_round_trip_when_resolved(void **state) {
    (void)state;
    Config config, again;
    Error error;
    assert_true(
        load_config(&config, &error, valid_config(), "--total_batch_size=0", "--gradient_accumulation_steps=5", NULL));
    again = reloaded(&config);
    assert_same_config(&config, &again);
    assert_true(config_resolve(&config, 3, &error));
    again = reloaded(&config);
    assert_true(config_resolve(&again, 3, &error));
    assert_same_config(&config, &again);
    assert_int_equal(again.train.total_batch_size, 60);
}

/* Bytes after a string's end, and padding, must not depend on what was there before. */
static void test_equal_configs_are_equal_bytes(void **state) {
    (void)state;
    Config a, b;
    memset(&a, 0x55, sizeof a);
    memset(&b, 0xAA, sizeof b);
    Error error;
    const char *path = config_with("train", "\"init_from\": \"a/very/long/path/to/a/checkpoint\"");
    assert_true(load_config(&a, &error, path, "--init_from=auto", NULL));
    assert_true(load_config(&b, &error, valid_config(), "--init_from=auto", NULL));
    assert_same_config(&a, &b);
}

/* ---- the table and --help ---- */

static void test_every_key_is_in_the_table(void **state) {
    (void)state;
    static const char *const keys =
        "model n_layer n_head n_embd block_size vocab_size bias dropout scale_attn_by_inverse_layer_idx position "
        "rope_base norm norm_gain norm_eps norm_embedding qk_norm qk_norm_eps activation tie_embeddings lm_head_bias "
        "attention_scale attention_output_scale logit_softcap init zero_init_projections zero_init_lm_head;"
        "data train val hellaswag order seed;"
        "optimizer name learning_rate weight_decay beta1 beta2 eps grad_clip gamma is_approx optimize_1d lr_1d "
        "betas_1d weight_decay_1d muon_learning_rate muon_weight_decay momentum nesterov ns_steps ns_dtype;"
        "schedule name warmup_iters lr_decay_iters min_lr warmdown_iters;"
        "train max_iters total_batch_size gradient_accumulation_steps batch_size gradient_scale eval_interval "
        "eval_sequences eval_only log_interval norms_interval sample_interval sample_prompt sample_tokens "
        "checkpoint_interval keep_checkpoints out_dir overwrite "
        "init_from seed "
        "device precision allow_tf32 threads recompute debug_alloc ema_start ema_decay ema_mix";
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
        if (a->has_optimizer_default) {
            assert_string_equal(a->section, "optimizer");
            assert_null(a->default_text);
            bool has_reader = false;
            for (int name = 0; name < OPTIM_COUNT; name++)
                has_reader = has_reader || config_key_applies(a, (OptimName)name);
            assert_true(has_reader);
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
        must_hold(more, config_key_is_required(key) ? " required " : key->default_text ? key->default_text : " ");
        next++;
    }
    if (next < config_key_count) fail_msg("--help does not list %s", config_keys[next].name);
    free(text);
    text = test_read_file(path, NULL);
    must_hold(text, "one of: constant, cosine, wsd, trapezoidal, exp\n");
    must_hold(text, "number in [0, 1)");
    must_hold(text, "one of: learned, rope, rope-half\n");
    must_hold(text, "norm_eps                        number in (0, 1)      1e-5           added to");
    must_hold(
        text,
        "eval_interval                   integer >= 0          1000           steps between evaluations; 0 = never");
    must_hold(text, "the rate at the end\n                                  only: cosine, exp\n");
    must_hold(text, "mars-m,\n                                  mars-m-efficient, sgd-sai, normuon, mars-normuon, "
                    "sgd-boost (= sgd-sai)\n");
    must_hold(text, "betas_1d                        2 numbers in [0, 1)   0.9,0.95       beta1, beta2 of AdamW");
    must_hold(text, "number > 0            learning_rate  the peak of vectors\n");
    must_hold(text, "default with mars-adamw: 0.003, mars-lion: 0.003, mars-shampoo: 0.003\n");
    must_hold(text, "default with sgd-sai: 0.9\n");
    must_hold(text, "looks a step ahead\n                                  only: muon, moonlight, normuon\n");
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
        if (load_config(&config, &error, path, NULL)) {
            Config again = reloaded(&config);
            assert_same_config(&config, &again);
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
        cmocka_unit_test(test_overrides_in_another_form),
        cmocka_unit_test(test_home_in_paths),
        cmocka_unit_test(test_wrong_overrides),
        cmocka_unit_test(test_parts_of_messages),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_round_trip_when_resolved),
        cmocka_unit_test(test_equal_configs_are_equal_bytes),
        cmocka_unit_test(test_every_key_is_in_the_table),
        cmocka_unit_test(test_table_is_consistent),
        cmocka_unit_test(test_help),
        cmocka_unit_test(test_mutations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
