/* test_config_model.c: a config whose model comes with weights (config_take_model): which keys then count, and which
 * contradict them. */
#include "dev/test/config/config_fixture.h"

#include <stdlib.h>
#include <string.h>

#include "config/config_keys.h"
#include "config/config_model.h"
#include "dev/test/model/small_model.h"

static const char folder[] = "weights/config.json";
static const char modern_keys[] =
    "{\"n_layer\": 3, \"n_head\": 2, \"n_embd\": 16, \"block_size\": 64, \"vocab_size\": 256, \"bias\": true, "
    "\"scale_attn_by_inverse_layer_idx\": false, \"position\": \"rope-half\", \"rope_base\": 1024, "
    "\"norm\": \"rmsnorm\", \"norm_gain\": false, \"norm_eps\": 1e-6, \"norm_embedding\": true, \"qk_norm\": true, "
    "\"qk_norm_eps\": 0.0078125, \"activation\": \"relu2\", \"tie_embeddings\": false, \"lm_head_bias\": true, "
    "\"attention_scale\": 0.12, \"attention_output_scale\": 0.3, \"logit_softcap\": 15}";

/* A config with an override, or none, before it takes a model. */
static Config config_before(const char *override) {
    Config config;
    Error error;
    char *overrides[] = {(char *) override};
    if (!config_read(&config, valid_config(), override != NULL, overrides, &error)) fail_msg("%s", error.text);
    return config;
}

static void test_model_of_weights(void **state) {
    (void)state;
    GPT2Config model = small_model(modern_keys);
    model.init = MODEL_INIT_TORCH; /* of which weights tell nothing */
    model.zero_init_projections = true;
    model.dropout = 0.5;
    Error error;
    Config config = config_before(NULL);
    if (!config_take_model(&config, &model, folder, (ConfigTake){0}, &error)) fail_msg("%s", error.text);
    if (!config_check(&config, &error)) fail_msg("%s", error.text);
    model.dropout = 0;
    assert_same_model(&config.model, &model);
    assert_int_equal(config.model.init, MODEL_INIT_GPT2);
    assert_false(config.model.zero_init_projections);
    config = config_before("--init=fan-in");
    assert_true(config_take_model(&config, &model, folder, (ConfigTake){0}, &error));
    assert_int_equal(config.model.init, MODEL_INIT_FAN_IN);
}

/* Every key of the model may be given again; another value is an error that names the place, the key and both
 * values. */
static void test_contradictions_with_weights(void **state) {
    (void)state;
    GPT2Config model = small_model(modern_keys);
    static const struct {
        const char *key, *own, *other, *text;
    } cases[] = {
        {"n_layer", "3", "2", "is 2, but the model in weights/config.json has 3"},
        {"n_head", "2", "4", "is 4, but the model in weights/config.json has 2"},
        {"n_embd", "16", "32", "is 32, but the model in weights/config.json has 16"},
        {"block_size", "64", "32", "is 32, but the model in weights/config.json has 64"},
        {"vocab_size", "256", "257", "is 257, but the model in weights/config.json has 256"},
        {"bias", "true", "false", "is false, but the model in weights/config.json has true"},
        {"scale_attn_by_inverse_layer_idx", "false", "true", "is true, but the model in weights/config.json has false"},
        {"position", "rope-half", "rope", "is \"rope\", but the model in weights/config.json has \"rope-half\""},
        {"rope_base", "1024", "10000", "is 10000, but the model in weights/config.json has 1024"},
        {"norm", "rmsnorm", "layernorm", "is \"layernorm\", but the model in weights/config.json has \"rmsnorm\""},
        {"norm_gain", "false", "true", "is true, but the model in weights/config.json has false"},
        {"norm_eps", "0.000001", "1e-5", "is 1e-05, but the model in weights/config.json has 1e-06"},
        {"norm_embedding", "true", "false", "is false, but the model in weights/config.json has true"},
        {"qk_norm", "true", "false", "is false, but the model in weights/config.json has true"},
        {"qk_norm_eps", "0.0078125", "1e-6", "is 1e-06, but the model in weights/config.json has 0.0078125"},
        {"activation", "relu2", "gelu", "is \"gelu\", but the model in weights/config.json has \"relu2\""},
        {"tie_embeddings", "false", "true", "is true, but the model in weights/config.json has false"},
        {"lm_head_bias", "true", "false", "is false, but the model in weights/config.json has true"},
        {"attention_scale", "0.12", "0", "is 0, but the model in weights/config.json has 0.12"},
        {"attention_output_scale", "0.3", "1", "is 1, but the model in weights/config.json has 0.3"},
        {"logit_softcap", "15", "30", "is 30, but the model in weights/config.json has 15"},
    };
    size_t keys = 0;
    for (int i = 0; i < config_key_count; i++) keys += config_keys[i].comes_with_weights;
    assert_int_equal(keys, ARRAY_LENGTH(cases));
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        Error error;
        char *own = format_string("--%s=%s", cases[i].key, cases[i].own);
        char *other = format_string("--%s=%s", cases[i].key, cases[i].other);
        char *text = format_string("command line: model.%s %s; remove the key: it comes with the weights", cases[i].key,
                                   cases[i].text);
        Config config = config_before(own);
        if (!config_take_model(&config, &model, folder, (ConfigTake){0}, &error)) fail_msg("%s", error.text);
        config = config_before(other);
        assert_false(config_take_model(&config, &model, folder, (ConfigTake){0}, &error));
        assert_string_equal(error.text, text);
        free(own), free(other), free(text);
    }
}

/* Position embeddings can be cut, and rotations are for sequences of any length. */
static void test_length_of_weights(void **state) {
    (void)state;
    const ConfigTake free_length = {.may_change_block_size = true};
    static const struct {
        const char *position, *override;
        bool fits;
    } cases[] = {
        {"learned", "--block_size=32", true},    {"learned", "--block_size=128", false},
        {"rope", "--block_size=32", true},       {"rope", "--block_size=128", true},
        {"rope-half", "--block_size=128", true},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        char *keys = format_string("{\"block_size\": 64, \"n_embd\": 16, \"position\": \"%s\"}", cases[i].position);
        GPT2Config model = small_model(keys);
        Config config = config_before(cases[i].override);
        Error error;
        assert_int_equal(config_take_model(&config, &model, folder, free_length, &error), cases[i].fits);
        config = config_before(cases[i].override);
        assert_false(config_take_model(&config, &model, folder, (ConfigTake){0}, &error)); /* on resume */
        free(keys);
    }
}

/* What changes the model's numbers comes with weights: of the model's keys all but dropout and those of the start. */
static void test_keys_that_come_with_weights(void **state) {
    (void)state;
    static const char *const others[] = {"dropout", "init", "zero_init_projections", "zero_init_lm_head"};
    for (int i = 0; i < config_key_count; i++) {
        bool expected = strcmp(config_keys[i].section, "model") == 0;
        for (size_t j = 0; j < ARRAY_LENGTH(others); j++)
            expected = expected && strcmp(config_keys[i].name, others[j]) != 0;
        if (config_keys[i].comes_with_weights != expected) fail_msg("%s", config_keys[i].name);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model_of_weights),
        cmocka_unit_test(test_contradictions_with_weights),
        cmocka_unit_test(test_length_of_weights),
        cmocka_unit_test(test_keys_that_come_with_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
