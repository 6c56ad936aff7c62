/* test_config_optimizers.c: the config parser's keys of each optimizer: which optimizer has which, their defaults and
 * ranges, what happens to those of another one, and the settings of the golden files. */
#include "dev/test/config/config_fixture.h"

#include <cjson/cJSON.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config_keys.h"
#include "optim/optimizers.h"

static const char *const optimizers[] = {"adamw",   "mars-adamw", "mars-lion",   "mars-shampoo",
                                         "muon",    "moonlight",  "mars-m",      "mars-m-efficient",
                                         "sgd-sai", "normuon",    "mars-normuon"};

#define MATRIX_OPTIMIZERS "mars-shampoo, muon, moonlight, mars-m, mars-m-efficient, normuon, mars-normuon"

/* The keys that not all optimizers have: who has them, the default, and another value, as JSON without spaces, as
 * text on the command line, and again as JSON. */
static const struct Setting {
    const char *key, *optimizers, *standard, *other, *argument, *printed;
} settings[] = {
    {"beta1",
     "adamw, mars-adamw, mars-lion, mars-shampoo, muon, mars-m, mars-m-efficient, normuon, "
     "mars-normuon",
     "0.9", "0.75", "8e-1", "0.8"},
    {"beta2", "adamw, mars-adamw, mars-shampoo, muon, normuon", "0.95", "0.999", "0", "0"},
    {"gamma", "mars-adamw, mars-lion, mars-shampoo, mars-m, mars-m-efficient, mars-normuon", "0.025", "0", "0.05",
     "0.05"},
    {"is_approx", "mars-adamw, mars-lion, mars-shampoo, mars-m, mars-normuon", "true", "false", "false", "false"},
    {"optimize_1d", "mars-adamw, mars-lion, mars-shampoo", "false", "true", "true", "true"},
    {"betas_1d", "mars-adamw, mars-lion, mars-shampoo, moonlight, mars-m, mars-m-efficient, mars-normuon", "[0.9,0.95]",
     "[0,0.999]", "0.8,0.25", "[0.8,0.25]"},
    {"weight_decay_1d", "mars-adamw, mars-lion, mars-shampoo", "0.1", "0", "2.5", "2.5"},
    {"muon_learning_rate", "muon, normuon", "0.02", "1e-06", "1e-2", "0.01"},
    {"muon_weight_decay", "muon, normuon", "0", "0.25", "3", "3"},
    {"muon_beta2", "normuon, mars-normuon", "0.95", "0", "0.5", "0.5"},
    {"momentum", "muon, moonlight, sgd-sai, normuon", "0.95", "0", "0.99", "0.99"},
    {"nesterov", "muon, moonlight, normuon", "true", "false", "false", "false"},
    {"ns_steps", MATRIX_OPTIMIZERS, "5", "1", "100", "100"},
    {"ns_dtype", MATRIX_OPTIMIZERS, "\"auto\"", "\"float32\"", "bfloat16", "\"bfloat16\""},
    {"muon_scale", MATRIX_OPTIMIZERS, "\"auto\"", "\"none\"", "sqrt-max", "\"sqrt-max\""},
    {"split_qkv", MATRIX_OPTIMIZERS, "false", "true", "true", "true"},
    {"ns_coefficients", MATRIX_OPTIMIZERS, "\"quintic\"", "\"cubic\"", "polar-express", "\"polar-express\""},
    {"muon_embeddings", "muon, normuon", "true", "false", "false", "false"},
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
    if (strcmp(setting->key, "momentum") == 0 && strcmp(optimizer, "sgd-sai") == 0) return "0.9";
    if (strcmp(setting->key, "muon_embeddings") == 0 && strcmp(optimizer, "normuon") == 0) return "false";
    return setting->standard;
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

/* Another setting without which this one has no effect, as the beginning of a section. */
static const char *form_of(const struct Setting *setting, const char *optimizer) {
    bool special = strcmp(setting->key, "beta2") == 0 && strcmp(optimizer, "mars-shampoo") == 0;
    return special ? "\"optimize_1d\": true" : "\"eps\": 1e-8";
}

static void takes_setting(const char *optimizer, const struct Setting *setting) {
    Config config = accepted(config_of(optimizer, form_of(setting, optimizer)), NULL);
    must_print(&config, setting->key, default_of(setting, optimizer));
    char *body = format_string("%s, \"%s\": %s", form_of(setting, optimizer), setting->key, setting->other);
    char *override = format_string("--%s=%s", setting->key, setting->argument);
    config = accepted(config_of(optimizer, body), NULL);
    must_print(&config, setting->key, setting->other);
    config = accepted(config_of(optimizer, body), override);
    must_print(&config, setting->key, setting->printed);
    free(body);
    free(override);
}

static void refuses_setting(const char *optimizer, const struct Setting *setting) {
    Config config = accepted(config_of(optimizer, ""), NULL);
    char *text = config_to_json(&config), *shown = format_string("\"%s\":", setting->key);
    if (strstr(text, shown)) fail_msg("%s is in %s", shown, text);
    char *message = format_string("optimizer.%s: the optimizer %s has no such setting|have it: %s", setting->key,
                                  optimizer, setting->optimizers);
    char *body = format_string("\"%s\": %s", setting->key, setting->other);
    char *override = format_string("--%s=%s", setting->key, setting->argument);
    Config same = accepted(config_of(optimizer, body), NULL);
    assert_same_config(&same, &config);
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
        assert_int_equal(accepted(config_of(optimizers[i], ""), NULL).optimizer.name, i);
        assert_string_equal(optim_names[i], optimizers[i]);
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
        Config c = accepted(config_of(optimizers[i], "\"weight_decay\": 0.01, \"eps\": 1e-6, \"grad_clip\": 2"), NULL);
        assert_true(c.optimizer.weight_decay == 0.01 && c.optimizer.eps == 1e-6 && c.optimizer.grad_clip == 2);
        assert_true(c.optimizer.learning_rate == 0.01 && !c.optimizer.cautious_weight_decay);
        must_print(&c, "cautious_weight_decay", "false");
        c = accepted(config_of(optimizers[i], "\"cautious_weight_decay\": true"), NULL);
        assert_true(c.optimizer.cautious_weight_decay);
        must_print(&c, "cautious_weight_decay", "true");
        c = accepted(config_of(optimizers[i], ""), "--cautious_weight_decay=true");
        assert_true(c.optimizer.cautious_weight_decay);
    }
}

/* Rates of groups: the LM head is the token embedding in every model so far, so that its rate is idle; the others are
 * learning_rate where they are not given, but for lr_1d in MARS. */
static void test_rates_of_groups(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(optimizers); i++) {
        bool is_mars = i >= OPTIM_MARS_ADAMW && i <= OPTIM_MARS_SHAMPOO;
        bool is_muon = i == OPTIM_MUON || i == OPTIM_NORMUON;
        Config c = accepted(config_of(optimizers[i], ""), NULL);
        char *text = config_to_json(&c);
        assert_null(strstr(text, "embedding_lr"));
        assert_null(strstr(text, "lm_head_lr"));
        assert_int_equal(strstr(text, "\"lr_1d\":0.003") != NULL, is_mars);
        assert_int_equal(strstr(text, "lr_1d") != NULL, is_mars);
        free(text);
        c = accepted(config_of(optimizers[i], "\"lr_1d\": 0.5"), NULL);
        assert_true(c.optimizer.lr_1d == 0.5);
        must_print(&c, "lr_1d", "0.5");
        Config again = reloaded(&c);
        assert_same_config(&c, &again);
        refuse_by(
            config_of(optimizers[i], is_muon ? "\"muon_embeddings\": false" : ""), "--lm_head_lr=0.5",
            "command line: ", "optimizer.lm_head_lr has no effect with a model whose LM head is its token embedding");
        Error error;
        const char *path = config_of(optimizers[i], is_muon ? "\"muon_embeddings\": false" : "");
        if (!load_config(&c, &error, path, "--lm_head_lr=0.5", "--tie_embeddings=false", NULL))
            fail_msg("%s", error.text);
        assert_true(c.optimizer.lm_head_lr == 0.5);
        again = reloaded(&c);
        assert_same_config(&c, &again);
        refuse_by(config_of(optimizers[i], ""), "--lr_1d=0", "command line: ", "optimizer.lr_1d|number > 0");
        refuse_by(config_of(optimizers[i], ""), "--lr_1d=learning_rate", "command line: ", "optimizer.lr_1d");
        if (is_muon) {
            refuse_by(config_of(optimizers[i], "\"muon_embeddings\": true"), "--embedding_lr=0.5",
                      "command line: ", "optimizer.embedding_lr has no effect with optimizer.muon_embeddings true");
            c = accepted(config_of(optimizers[i], "\"muon_embeddings\": false, \"embedding_lr\": 0.25"), NULL);
        } else {
            c = accepted(config_of(optimizers[i], ""), "--embedding_lr=0.25");
        }
        assert_true(c.optimizer.embedding_lr == 0.25);
        must_print(&c, "embedding_lr", "0.25");
    }
    refuse_by(config_of("muon", ""), "--muon_scale=muon",
              "command line: ", "optimizer.muon_scale|one of: auto, spectral, sqrt-max, moonlight, none");
    refuse_by(config_of("muon", ""), "--split_qkv=3", "command line: ", "optimizer.split_qkv|true or false");
    refuse_by(config_of("muon", ""), "--muon_embeddings=no", "command line: ", "optimizer.muon_embeddings");
}

/* --list_optimizers is the table: every optimizer, each role in a group, each key one of the config's. */
static void test_list_of_optimizers(void **state) {
    (void)state;
    const char *path = test_path("optimizers.json");
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    config_print_optimizers(file);
    fclose(file);
    char *text = test_read_file(path, NULL);
    cJSON *list = cJSON_Parse(text);
    assert_int_equal(cJSON_GetArraySize(list), OPTIM_COUNT);
    for (int i = 0; i < OPTIM_COUNT; i++) {
        const cJSON *one = cJSON_GetArrayItem(list, i), *group, *key, *role;
        assert_string_equal(cJSON_GetObjectItem(one, "name")->valuestring, optimizers[i]);
        assert_true(cJSON_GetObjectItem(one, "title")->valuestring[0]);
        cJSON_ArrayForEach(key, cJSON_GetObjectItem(one, "keys")) {
            int index = config_key_find("optimizer", key->string);
            assert_true(index >= 0 && config_key_applies(&config_keys[index], (OptimName)i));
        }
        int roles = 0;
        cJSON_ArrayForEach(group, cJSON_GetObjectItem(one, "groups")) {
            assert_true(config_key_find("optimizer", cJSON_GetObjectItem(group, "learning_rate")->valuestring) >= 0);
            assert_true(cJSON_GetArraySize(cJSON_GetObjectItem(group, "states")) > 0);
            cJSON_ArrayForEach(key, cJSON_GetObjectItem(group, "betas"))
                assert_true(optimizer_has_key((OptimName)i, key->valuestring));
            cJSON_ArrayForEach(role, cJSON_GetObjectItem(group, "roles")) roles++;
        }
        assert_true(roles >= ROLE_COUNT);
        for (int optimize_1d = 0; optimize_1d < 2; optimize_1d++) /* each role has one group, or this dies */
            for (int r = 0; r < ROLE_COUNT; r++) {
                OptimConfig config = optim_defaults((OptimName)i, 1e-3);
                config.optimize_1d = config.muon_embeddings = optimize_1d;
                param_group_of(&config, (TensorRole)r);
            }
    }
    cJSON_Delete(list);
    free(text);
}

/* What an optimizer uses in one of its forms: without an effect in the other, it is refused on the command line and
 * left out of the config in a file. */
static void test_settings_of_one_form(void **state) {
    (void)state;
    static const struct {
        const char *optimizer, *key, *value, *argument;
        bool with_1d;
    } cases[] = {
        {"mars-adamw", "lr_1d", "0.5", "0.5", false},        {"mars-lion", "weight_decay_1d", "0.5", "0.5", false},
        {"mars-shampoo", "betas_1d", "[0,0]", "0,0", false}, {"mars-lion", "eps", "0.5", "0.5", false},
        {"mars-shampoo", "beta2", "0.5", "0.5", true},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++)
        for (int with_1d = 0; with_1d < 2; with_1d++) {
            bool used = with_1d == cases[i].with_1d;
            char *form = format_string("\"optimize_1d\": %s", with_1d ? "true" : "false");
            char *body = format_string("%s, \"%s\": %s", form, cases[i].key, cases[i].value);
            char *override = format_string("--%s=%s", cases[i].key, cases[i].argument);
            char *printed = format_string("\"%s\":%s", cases[i].key, cases[i].value);
            char *refused = format_string("optimizer.%s has no effect with optimizer.optimize_1d %s: remove it",
                                          cases[i].key, with_1d ? "true" : "false");
            Config config = accepted(config_of(cases[i].optimizer, body), NULL);
            char *text = config_to_json(&config);
            assert_int_equal(strstr(text, printed) != NULL, used);
            if (used)
                accepted(config_of(cases[i].optimizer, form), override);
            else
                refuse_by(config_of(cases[i].optimizer, form), override, "command line: ", refused);
            free(form), free(body), free(override), free(printed), free(refused), free(text);
        }
    /* optimize_1d itself may be without an effect. */
    assert_true(accepted(config_of("moonlight", "\"optimize_1d\": true"), "--betas_1d=0,0").optimizer.betas_1d[1] == 0);
}

static void test_settings_lie_in_their_fields(void **state) {
    (void)state;
    OptimConfig c = accepted(config_of("mars-shampoo", "\"beta1\": 0.5, \"beta2\": 0.6, \"gamma\": 0.7, "
                                                       "\"is_approx\": false, \"optimize_1d\": true"),
                             NULL)
                        .optimizer;
    assert_true(c.beta1 == 0.5 && c.beta2 == 0.6 && c.gamma == 0.7 && !c.is_approx && c.optimize_1d);
    c = accepted(config_of("mars-adamw", "\"lr_1d\": 0.8, \"betas_1d\": [ 0.1, 2e-1 ], \"weight_decay_1d\": 0.3"), NULL)
            .optimizer;
    assert_true(c.lr_1d == 0.8);
    assert_true(c.betas_1d[0] == 0.1 && c.betas_1d[1] == 0.2 && c.weight_decay_1d == 0.3);
    c = accepted(config_of("muon", "\"muon_learning_rate\": 0.1, \"muon_weight_decay\": 0.2, \"momentum\": 0.3, "
                                   "\"nesterov\": false, \"ns_steps\": 7, \"ns_dtype\": \"float32\""),
                 NULL)
            .optimizer;
    assert_true(c.muon_learning_rate == 0.1 && c.muon_weight_decay == 0.2 && c.momentum == 0.3 && !c.nesterov);
    assert_int_equal(c.ns_steps, 7);
    assert_int_equal(c.ns_dtype, NS_DTYPE_FLOAT32);
    assert_int_equal(accepted(config_of("muon", ""), "--ns_dtype=bfloat16").optimizer.ns_dtype, NS_DTYPE_BFLOAT16);
    c = accepted(config_of("normuon", "\"muon_learning_rate\": 0.1, \"muon_weight_decay\": 0.2, \"muon_beta2\": 0.3, "
                                      "\"muon_embeddings\": true, \"ns_coefficients\": \"cubic\", "
                                      "\"cautious_weight_decay\": true"),
                 NULL)
            .optimizer;
    assert_true(c.muon_learning_rate == 0.1 && c.muon_weight_decay == 0.2 && c.muon_beta2 == 0.3 && c.muon_embeddings);
    assert_true(c.cautious_weight_decay && c.ns_steps == 12);
    assert_int_equal(c.ns_coefficients, NS_COEFFICIENTS_CUBIC);
    c = accepted(config_of("adamw", ""), NULL).optimizer; /* what it does not have holds the defaults */
    assert_true(c.gamma == 0.025 && c.is_approx && !c.optimize_1d && c.lr_1d == 0 && c.weight_decay_1d == 0.1);
    assert_true(c.betas_1d[0] == 0.9 && c.betas_1d[1] == 0.95 && c.muon_learning_rate == 0.02);
    assert_true(c.muon_weight_decay == 0 && c.momentum == 0.95 && c.nesterov && c.ns_steps == 5);
    assert_int_equal(c.ns_dtype, NS_DTYPE_AUTO);
}

/* ns_steps follows from ns_coefficients where it is not given, wherever these are given. */
static void test_newton_schulz_steps(void **state) {
    (void)state;
    static const struct {
        const char *file, *argument;
        int steps;
    } cases[] = {
        {"", NULL, 5},
        {"", "--ns_coefficients=cubic", 12},
        {"\"ns_coefficients\": \"cubic\"", NULL, 12},
        {"\"ns_coefficients\": \"cubic\"", "--ns_coefficients=quintic", 5},
        {"\"ns_coefficients\": \"cubic\"", "--ns_steps=3", 3},
        {"\"ns_coefficients\": \"cubic\", \"ns_steps\": 7", NULL, 7},
        {"\"ns_steps\": 7", "--ns_coefficients=cubic", 7},
        {"\"ns_coefficients\": \"polar-express\"", NULL, 5},
        {"\"ns_coefficients\": \"polar-express\"", "--ns_steps=5", 5},
        {"\"ns_steps\": 5", "--ns_coefficients=polar-express", 5},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++)
        for (size_t k = OPTIM_MARS_SHAMPOO; k < OPTIM_COUNT; k++) {
            if (k == OPTIM_SGD_SAI) continue;
            Config config = accepted(config_of(optimizers[k], cases[i].file), cases[i].argument);
            assert_int_equal(config.optimizer.ns_steps, cases[i].steps);
            char *steps = format_string("%d", cases[i].steps);
            must_print(&config, "ns_steps", steps);
            free(steps);
            Config again = reloaded(&config);
            assert_same_config(&config, &again);
        }
    const char *message =
        "polar-express has exactly 5 steps: set ns_steps to 5 or leave it out, or set ns_coefficients "
        "to quintic or cubic";
    char *parts = format_string("optimizer.ns_steps is 12; %s", message);
    refuse_by(config_of("normuon", "\"ns_coefficients\": \"polar-express\""), "--ns_steps=12", "command line: ", parts);
    refuse_by(config_of("muon", "\"ns_steps\": 12"), "--ns_coefficients=polar-express", "command line: ", parts);
    refuse_file(config_of("mars-m", "\"ns_steps\": 12, \"ns_coefficients\": \"polar-express\""), parts);
    free(parts);
    /* without an effect, they contradict nothing */
    accepted(config_of("adamw", "\"ns_steps\": 12, \"ns_coefficients\": \"polar-express\""), NULL);
}

static void test_pairs(void **state) {
    (void)state;
    static const char *const ok[] = {"0.25,0.5", "[0.25,0.5]", "2.5e-1,+.5", "[0.25, 0.5]"};
    for (size_t i = 0; i < ARRAY_LENGTH(ok); i++) {
        char *override = format_string("--betas_1d=%s", ok[i]);
        Config c = accepted(config_of("mars-m", ""), override);
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
        {"\"ns_coefficients\": \"quartic\"",
         "optimizer.ns_coefficients is \"quartic\"; expected one of: quintic, polar-express, cubic"},
        {"\"ns_coefficients\": 5", "optimizer.ns_coefficients is 5; expected one of: quintic, polar-express, cubic"},
        {"\"cautious_weight_decay\": 1", "optimizer.cautious_weight_decay is 1; expected true or false"},
        {"\"ns_dtype\": \"fp32\"", "optimizer.ns_dtype is \"fp32\"; expected one of: auto, bfloat16, float32"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) refuse_file(config_of("muon", cases[i][0]), cases[i][1]);
    static const char *const normuon[][2] = {
        {"\"muon_beta2\": 1", "optimizer.muon_beta2 is 1; expected number in [0, 1)"},
        {"\"muon_beta2\": -0.1", "optimizer.muon_beta2 is -0.1; expected number in [0, 1)"},
        {"\"muon_beta2\": \"0.9\"", "optimizer.muon_beta2 is \"0.9\"; expected number in [0, 1)"},
        {"\"muon_embeddings\": 0", "optimizer.muon_embeddings is 0; expected true or false"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(normuon); i++) refuse_file(config_of("normuon", normuon[i][0]), normuon[i][1]);
    refuse_by(config_of("mars-normuon", ""), "--muon_beta2=1.5",
              "command line: ", "optimizer.muon_beta2 is '1.5'; expected number in [0, 1)");
    refuse_by(config_of("muon", ""), "--ns_coefficients=Cubic",
              "command line: ", "optimizer.ns_coefficients is 'Cubic'; expected one of: quintic, polar-express, cubic");
    refuse_override("--cautious_weight_decay=yes", "optimizer.cautious_weight_decay is 'yes'; expected true or false");
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
    Config config = accepted(path, "--optimizer.name=muon");
    assert_int_equal(config.optimizer.name, OPTIM_MUON);
    assert_true(config.optimizer.beta1 == 0.95 && config.optimizer.gamma == 0.025);
    assert_true(config.optimizer.betas_1d[0] == 0.9 && config.optimizer.betas_1d[1] == 0.95);
    config = accepted(path, "--optimizer.name=sgd-boost");
    assert_true(config.optimizer.beta1 == 0.9);
    refuse_by(path, "--momentum=0.5", "command line: ", "optimizer.momentum: the optimizer mars-adamw has no such");
    refuse_by(NULL, "--gamma=0.05", "command line: ", "data.train is missing");
}

static void test_sgd_boost_is_sgd_sai(void **state) {
    (void)state;
    Config sai = accepted(config_of("sgd-sai", ""), NULL), boost = accepted(config_of("sgd-boost", ""), NULL);
    assert_int_equal(boost.optimizer.name, OPTIM_SGD_SAI);
    assert_same_config(&sai, &boost);
    assert_true(sai.optimizer.momentum == 0.9);
    must_print(&boost, "name", "\"sgd-sai\"");
    boost = accepted(config_of("adamw", ""), "--optimizer.name=sgd-boost");
    assert_same_config(&sai, &boost);
    assert_true(accepted(config_of("sgd-sai", "\"momentum\": 0.95"), NULL).optimizer.momentum == 0.95);
    assert_true(accepted(config_of("sgd-boost", ""), "--momentum=0.95").optimizer.momentum == 0.95);
    refuse_file(config_of("sgd-boos", ""), "optimizer.name is \"sgd-boos\"");
    refuse_file(config_with("schedule", "\"name\": \"sgd-boost\""), "schedule.name is \"sgd-boost\"");
}

static void test_optimizer_rules(void **state) {
    (void)state;
    const char *path = config_of("mars-m-efficient", "");
    refuse_by(path, "--beta1=0",
              "command line: ", "optimizer.beta1 is 0; mars-m-efficient divides by it: expected a number in (0, 1)");
    assert_true(accepted(path, "--beta1=1e-3").optimizer.beta1 == 1e-3);
    assert_true(accepted(config_of("mars-m", ""), "--beta1=0").optimizer.beta1 == 0);
    path = config_of("muon", "\"muon_learning_rate\": 1e-3");
    Config config;
    Error error;
    const char *const rates[] = {"--min_lr=2e-3", "--min_lr=2e-2"};
    const char *const messages[] = {"schedule.min_lr 0.002 must not be above optimizer.muon_learning_rate 0.001",
                                    "schedule.min_lr 0.02 must not be above optimizer.learning_rate 0.01"};
    for (size_t i = 0; i < ARRAY_LENGTH(rates); i++) {
        assert_false(load_config(&config, &error, path, "--schedule.name=cosine", rates[i], NULL));
        must_hold(error.text, "command line: ");
        must_hold(error.text, messages[i]);
    }
    assert_true(load_config(&config, &error, path, "--schedule.name=cosine", "--min_lr=1e-3", NULL));
    assert_true(config.schedule.min_lr == 1e-3);
    /* above muon's default, which is no matter for adamw */
    assert_true(load_config(&config, &error, config_of("adamw", ""), "--schedule.name=exp", "--learning_rate=0.05",
                            "--min_lr=0.04", NULL));
}

/* Everything that the reference values were computed with. */
static void test_settings_of_the_golden_files(void **state) {
    (void)state;
    glob_t files;
    assert_int_equal(glob("dev/golden/*.json", 0, NULL, &files), 0);
    assert_int_equal(glob("dev/golden/modern/*.json", GLOB_APPEND, NULL, &files), 0);
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
            seen[accepted(config_of_section(body), NULL).optimizer.name] = true;
            free(body);
        }
        cJSON_Delete(root);
        free(text);
    }
    globfree(&files);
    for (int i = 0; i < OPTIM_COUNT; i++) /* mars-normuon is ours: test_optim_rules.c has its values in float64 */
        if (!seen[i] && i != OPTIM_MARS_NORMUON) fail_msg("no golden file has %s", optimizers[i]);
}

/* A program that uses the library gets the defaults of the table, but for its one rate. */
static void test_defaults_of_the_library(void **state) {
    (void)state;
    for (int i = 0; i < OPTIM_COUNT; i++) {
        OptimConfig table = accepted(config_of(optimizers[i], ""), NULL).optimizer;
        OptimConfig library = optim_defaults((OptimName)i, table.learning_rate);
        assert_true(library.lr_1d == table.learning_rate && library.muon_learning_rate == table.learning_rate);
        assert_int_equal(optim_find(optimizers[i]), i);
        assert_true(library.name == table.name && library.weight_decay == table.weight_decay);
        assert_true(library.beta1 == table.beta1 && library.beta2 == table.beta2 && library.eps == table.eps);
        assert_true(library.grad_clip == table.grad_clip && library.gradient_scale == table.gradient_scale);
        assert_true(library.gamma == table.gamma && library.is_approx == table.is_approx);
        assert_true(library.optimize_1d == table.optimize_1d && library.weight_decay_1d == table.weight_decay_1d);
        assert_memory_equal(library.betas_1d, table.betas_1d, sizeof library.betas_1d);
        assert_true(library.muon_weight_decay == table.muon_weight_decay && library.momentum == table.momentum);
        assert_true(library.nesterov == table.nesterov && ns_steps_of(&library) == table.ns_steps);
        assert_int_equal(library.ns_dtype, table.ns_dtype);
        assert_int_equal(library.ns_coefficients, table.ns_coefficients);
        assert_true(library.muon_embeddings == table.muon_embeddings && library.muon_beta2 == table.muon_beta2);
        assert_true(library.cautious_weight_decay == table.cautious_weight_decay);
    }
}

/* All settings that an optimizer has, each with another value than its default. */
static void test_round_trip_of_each_optimizer(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(optimizers); i++) {
        Config config = accepted(config_of(optimizers[i], ""), NULL), again = reloaded(&config);
        assert_same_config(&config, &again);
        char *body = checked_strdup("\"eps\": 0.30000000000000004");
        for (size_t k = 0; k < ARRAY_LENGTH(settings); k++) {
            if (!listed(settings[k].optimizers, optimizers[i])) continue;
            char *longer = format_string("%s, \"%s\": %s", body, settings[k].key, settings[k].other);
            free(body);
            body = longer;
        }
        config = accepted(config_of(optimizers[i], body), NULL);
        again = reloaded(&config);
        assert_same_config(&config, &again);
        free(body);
    }
    Config config = accepted(config_of("moonlight", ""), "--betas_1d=0.30000000000000004,4.9406564584124654e-324");
    Config again = reloaded(&config);
    assert_same_config(&config, &again);
    assert_true(again.optimizer.betas_1d[0] == 0.30000000000000004 && again.optimizer.betas_1d[1] == 5e-324);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_settings_of_each_optimizer),
        cmocka_unit_test(test_settings_of_all_optimizers),
        cmocka_unit_test(test_rates_of_groups),
        cmocka_unit_test(test_list_of_optimizers),
        cmocka_unit_test(test_settings_of_one_form),
        cmocka_unit_test(test_settings_lie_in_their_fields),
        cmocka_unit_test(test_newton_schulz_steps),
        cmocka_unit_test(test_pairs),
        cmocka_unit_test(test_bad_settings),
        cmocka_unit_test(test_another_optimizer_on_the_command_line),
        cmocka_unit_test(test_sgd_boost_is_sgd_sai),
        cmocka_unit_test(test_optimizer_rules),
        cmocka_unit_test(test_settings_of_the_golden_files),
        cmocka_unit_test(test_defaults_of_the_library),
        cmocka_unit_test(test_round_trip_of_each_optimizer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
