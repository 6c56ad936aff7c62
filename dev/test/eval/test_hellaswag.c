/* test_hellaswag.c: HellaSwag from its published form to the lines of metrics.jsonl: the file, what is wrong with one,
 * the score against one row at a time, and the trainer with any number of processes. */
#include "dev/test/train/train_fixture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/hellaswag.h"
#include "data/prepare/prepare_hellaswag.h"
#include "dev/test/model/reference_gpt2.h"
#include "eval/hellaswag_score.h"
#include "util/philox.h"

/* ---- the file ---- */

static const char good_line[] = "{\"ind\": 4, \"activity_label\": \"x\", \"ctx\": \"A man sits\", \"endings\": "
                                "[\"down.\", \"up\", \"\", \"on a roof\"], "
                                "\"label\": 3, \"split\": \"val\"}\n";

static Tokenizer *bytes_tokenizer(void) {
    Tokenizer *tokenizer;
    Error error;
    if (!tokenizer_open(&tokenizer, "bytes", NULL, &error)) fail_msg("%s", error.text);
    return tokenizer;
}

static bool prepare(const char *text, int *examples, Error *error) {
    Tokenizer *tokenizer = bytes_tokenizer();
    test_write_text(test_path("hellaswag.jsonl"), text);
    bool ok = hellaswag_prepare(test_path("hellaswag.jsonl"), tokenizer, test_path("hellaswag.bin"), examples, error);
    tokenizer_close(tokenizer);
    return ok;
}

static void assert_tokens_are(const uint16_t *tokens, int count, const char *text) {
    assert_int_equal(count, strlen(text));
    for (int i = 0; i < count; i++) assert_int_equal(tokens[i], (unsigned char)text[i]);
}

static void test_from_json_lines(void **state) {
    (void)state;
    int examples;
    Error error;
    char *text = format_string("%s\n%s", good_line,
                               "{\"ctx\":\"B\",\"endings\":[\"1\",\"2\",\"3\",\"\\u00e9\"],\"label\":\"0\"}");
    if (!prepare(text, &examples, &error)) fail_msg("%s", error.text);
    free(text);
    assert_int_equal(examples, 2);
    Hellaswag *set;
    if (!hellaswag_open(&set, test_path("hellaswag.bin"), 256, &error)) fail_msg("%s", error.text);
    assert_int_equal(hellaswag_count(set), 2);
    HellaswagExample first = hellaswag_example(set, 0), second = hellaswag_example(set, 1);
    static const char *const endings[] = {" down.", " up", " ", " on a roof"};
    assert_int_equal(first.label, 3);
    assert_tokens_are(first.context, first.context_count, "A man sits");
    for (int k = 0; k < 4; k++) assert_tokens_are(first.endings[k], first.ending_counts[k], endings[k]);
    assert_int_equal(second.label, 0);
    assert_tokens_are(second.context, second.context_count, "B");
    assert_tokens_are(second.endings[3], second.ending_counts[3], " \xc3\xa9");
    hellaswag_close(set);
}

static void test_bad_lines(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"nonsense", "line 2 is no JSON object"},
        {"[]", "line 2 is no JSON object"},
        {"{\"ctx\":\"a\",\"endings\":[\"1\",\"2\",\"3\",\"4\"],\"label\":0} {}", "line 2 is no JSON object"},
        {"{\"endings\":[\"1\",\"2\",\"3\",\"4\"],\"label\":0}", "line 2 has no \"ctx\""},
        {"{\"ctx\":\"\",\"endings\":[\"1\",\"2\",\"3\",\"4\"],\"label\":0}", "line 2 has no \"ctx\""},
        {"{\"ctx\":\"a\",\"endings\":[\"1\",\"2\",\"3\"],\"label\":0}", "\"endings\" that is an array of four"},
        {"{\"ctx\":\"a\",\"endings\":[\"1\",\"2\",\"3\",4],\"label\":0}", "an ending that is not a string"},
        {"{\"ctx\":\"a\",\"endings\":[\"1\",\"2\",\"3\",\"4\"]}", "no \"label\" from 0 to 3"},
        {"{\"ctx\":\"a\",\"endings\":[\"1\",\"2\",\"3\",\"4\"],\"label\":4}", "no \"label\" from 0 to 3"},
        {"{\"ctx\":\"a\",\"endings\":[\"1\",\"2\",\"3\",\"4\"],\"label\":1.5}", "no \"label\" from 0 to 3"},
        {"{\"ctx\":\"a\",\"endings\":[\"1\",\"2\",\"3\",\"4\"],\"label\":\"\"}", "no \"label\" from 0 to 3"},
    };
    Error error;
    int examples;
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        char *text = format_string("%s%s\n", good_line, cases[i][0]);
        assert_false(prepare(text, &examples, &error));
        char *parts = format_string("hellaswag.jsonl: |%s|expected a JSON object|prepare.sh downloads", cases[i][1]);
        assert_four_parts(error.text, parts);
        free(parts);
        free(text);
    }
    char *marked = format_string("\xef\xbb\xbf%s", good_line);
    if (!prepare(marked, &examples, &error)) fail_msg("%s", error.text);
    free(marked);
    assert_false(prepare("\x1f\x8b\x08", &examples, &error));
    assert_four_parts(error.text, "hellaswag.jsonl| is packed|expected JSON Lines|unpack it first");
    assert_false(prepare("%PDF-1.7\n", &examples, &error));
    assert_four_parts(error.text,
                      "hellaswag.jsonl| looks like a PDF document|, not like JSON Lines|prepare.sh downloads");
    assert_false(prepare("\n \n", &examples, &error));
    assert_four_parts(error.text, "hellaswag.jsonl|holds no example|a JSON object in each line|prepare.sh downloads");
    Tokenizer *tokenizer = bytes_tokenizer();
    test_write_file(test_path("hellaswag.jsonl"), good_line, sizeof good_line); /* its last byte is 0 */
    assert_false(hellaswag_prepare(test_path("hellaswag.jsonl"), tokenizer, test_path("x.bin"), &examples, &error));
    assert_non_null(strstr(error.text, "hellaswag.jsonl is no text: its byte "));
    test_write_text(test_path("hellaswag.jsonl"), good_line);
    assert_false(hellaswag_prepare(test_path("hellaswag.jsonl"), tokenizer, test_folder(), &examples, &error));
    assert_non_null(strstr(error.text, "cannot rename "));
    assert_run(test_run("ls '%s.tmp'", test_folder()), 2, "");
    tokenizer_close(tokenizer);
}

/* Cut off at any byte, too long, and any number of the file another one. */
static void test_damaged_files(void **state) {
    (void)state;
    int examples;
    Error error;
    Hellaswag *set;
    assert_true(prepare(good_line, &examples, &error));
    size_t bytes;
    char *file = test_read_file(test_path("hellaswag.bin"), &bytes), *path = checked_strdup(test_path("damaged.bin"));
    for (size_t cut = 0; cut < bytes; cut++) {
        test_write_file(path, file, cut);
        if (hellaswag_open(&set, path, 256, &error)) fail_msg("%zu bytes of %zu are accepted", cut, bytes);
        assert_non_null(strstr(error.text, path));
    }
    test_write_file(path, file, bytes + 1);
    assert_false(hellaswag_open(&set, path, 256, &error));
    const struct {
        size_t number; /* of the int32 */
        int32_t value;
        const char *found, *expected, *remedy;
    } cases[] = {{0, 20240520, "no HellaSwag file", "expected 20190519", "prepare.sh makes one"},
                 {1, 2, "version 2", "only version 1", "prepare.sh makes it again"},
                 {2, 257, "a vocabulary of 257", "but vocab_size is 256", "make the file with the tokenizer of"},
                 {2, 0, "a vocabulary of 0", "but vocab_size is 256", "make the file with the tokenizer of"},
                 {3, 0, "0 examples", "do not fit its", "prepare.sh makes it again"},
                 {3, 2, "damaged", "", "prepare.sh makes it again"},
                 {3, INT32_MAX, "2147483647 examples", "do not fit its", "prepare.sh makes it again"},
                 {8, 4, "ending 4", "endings are 0 to 3", "prepare.sh makes it again"},
                 {8, -1, "ending -1", "endings are 0 to 3", "prepare.sh makes it again"},
                 {9, 0, "a part of 0", "expected 1 to", "prepare.sh makes it again"},
                 {10, -5, "a part of -5", "expected 1 to", "prepare.sh makes it again"},
                 {11, 1000, "a part of 1000", "expected 1 to", "prepare.sh makes it again"},
                 {12, INT32_MAX, "a part of", "expected 1 to", "prepare.sh makes it again"},
                 {13, 1, "bytes", "its examples have", "prepare.sh makes it again"}};
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        char *other = checked_malloc(bytes, "a file");
        memcpy(other, file, bytes);
        memcpy(other + cases[i].number * sizeof(int32_t), &cases[i].value, sizeof(int32_t));
        test_write_file(path, other, bytes);
        assert_false(hellaswag_open(&set, path, 256, &error));
        char *parts = format_string("%s|%s|%s|%s", path, cases[i].found, cases[i].expected, cases[i].remedy);
        assert_four_parts(error.text, parts);
        free(parts);
        free(other);
    }
    test_write_file(path, file, bytes);
    assert_false(hellaswag_open(&set, path, 255, &error));
    file[bytes - 1] = 1;
    test_write_file(path, file, bytes);
    assert_false(hellaswag_open(&set, path, 256, &error));
    assert_four_parts(error.text, "damaged.bin|token |but vocab_size is 256|prepare.sh makes it again");
    free(file), free(path);
}

/* ---- the score ---- */

/* Examples of random bytes, some longer than a block; returns their JSON Lines. */
static char *random_examples(int count) {
    char *text = checked_strdup("");
    for (int i = 0; i < count; i++) {
        char parts[5][64];
        for (int k = 0; k < 5; k++) {
            Philox4 random = philox(5, PHILOX_SAMPLE_TOKEN, (uint32_t)k, (uint64_t)i);
            int length = 1 + (int)(random.word[0] % (k == 0 ? 30 : i % 9 == 0 ? 40 : 12));
            for (int j = 0; j < length; j++)
                parts[k][j] =
                    (char)('a' + philox(6, PHILOX_SAMPLE_TOKEN, (uint32_t)(64 * k + j), (uint64_t)i).word[0] % 26);
            parts[k][length] = 0;
        }
        char *more = format_string("%s{\"ctx\":\"%s\",\"endings\":[\"%s\",\"%s\",\"%s\",\"%s\"],\"label\":%d}\n", text,
                                   parts[0], parts[1], parts[2], parts[3], parts[4], i % 4);
        free(text);
        text = more;
    }
    return text;
}

/* Sum and number of the losses of an ending, its row alone in a batch and without padding. */
static double loss_alone(GPT2 *model, const HellaswagExample *e, int k, int *count) {
    int32_t tokens[256];
    float losses[256];
    int n = 0, block = model->config.block_size;
    for (int i = 0; i < e->context_count; i++) tokens[n++] = e->context[i];
    for (int i = 0; i < e->ending_counts[k]; i++) tokens[n++] = e->endings[k][i];
    int skipped = n > block + 1 ? n - block - 1 : 0, T = n - skipped - 1;
    gpt2_forward(model, tokens + skipped, tokens + skipped + 1, 1, T);
    model->be->copy_to_host(model->be, losses, model->lm_head.losses, (size_t)T * sizeof *losses);
    *count = e->ending_counts[k] < T ? e->ending_counts[k] : T;
    double sum = 0.0;
    for (int t = T - *count; t < T; t++) sum += (double)losses[t];
    return sum;
}

static HellaswagScore score_alone(GPT2 *model, const Hellaswag *set) {
    HellaswagScore score = {hellaswag_count(set), 0.0, 0.0};
    for (int i = 0; i < hellaswag_count(set); i++) {
        HellaswagExample e = hellaswag_example(set, i);
        int best = 0, best_mean = 0;
        double least = INFINITY, least_mean = INFINITY;
        for (int k = 0; k < HELLASWAG_ENDINGS; k++) {
            int count;
            double loss = loss_alone(model, &e, k, &count);
            if (loss < least) least = loss, best = k;
            if (loss / count < least_mean) least_mean = loss / count, best_mean = k;
        }
        score.accuracy += best == e.label;
        score.accuracy_norm += best_mean == e.label;
    }
    score.accuracy /= (double)score.examples;
    score.accuracy_norm /= (double)score.examples;
    return score;
}

/* Batches of any size, rows that are cut, the loss sum untouched. */
static void test_score(void **state) {
    (void)state;
    enum { EXAMPLES = 50 };
    GPT2Config config = gpt2_config(2, 2, 16, 40, 256);
    Backend *be = open_cpu(DTYPE_FLOAT32, 1);
    GPT2 model;
    gpt2_create(&model, &config, be, 7, RECOMPUTE_NONE, false);
    double *params = random_weights(&model.table, DTYPE_FLOAT32, 3);
    set_weights(&model, params);
    int examples;
    Error error;
    char *text = random_examples(EXAMPLES);
    if (!prepare(text, &examples, &error)) fail_msg("%s", error.text);
    Hellaswag *set;
    if (!hellaswag_open(&set, test_path("hellaswag.bin"), 256, &error)) fail_msg("%s", error.text);
    HellaswagScore expected = score_alone(&model, set);
    int64_t count;
    gpt2_forget_loss(&model);
    Comm *comm = comm_open_single();
    for (int batch = 1; batch <= 7; batch += 2) {
        HellaswagScore score = hellaswag_score(&model, set, batch, comm);
        assert_int_equal(score.examples, EXAMPLES);
        if (score.accuracy != expected.accuracy || score.accuracy_norm != expected.accuracy_norm)
            fail_msg("batches of %d: %g and %g, not %g and %g", batch, score.accuracy, score.accuracy_norm,
                     expected.accuracy, expected.accuracy_norm);
    }
    gpt2_take_loss(&model, &count);
    assert_int_equal(count, 0);
    assert_true(expected.accuracy > 0.0 && expected.accuracy < 1.0);
    assert_true(expected.accuracy != expected.accuracy_norm); /* length counts in some */
    free(comm), free(text), free(params);
    hellaswag_close(set);
    gpt2_free(&model);
    be->close(be);
}

/* A model that looks at one token, and expects more letters of the same half of the alphabet: logits 4 for its 13
 * letters, -4 for the other 13 and 0 for the other 230 bytes; after these all alike. So a letter of the same half costs
 * log(940.1) - 4 = 2.85, one of the other half 10.85, a space after a letter 6.85, and a letter after a space
 * log(256) = 5.55. */
static void set_halves(GPT2 *model) {
    const TensorTable *table = &model->table;
    int C = model->config.n_embd;
    double *params = checked_calloc(table->length, sizeof *params, "weights");
    for (int i = 0; i < C; i++) params[table->tensors[model->ln_f.weight].offset + (size_t)i] = 1.0;
    for (int letter = 'a'; letter <= 'z'; letter++)
        for (int i = 0; i < C; i++) {
            double sign = (letter < 'n') == (i % 2 == 0) ? 1.0 : -1.0;
            params[table->tensors[model->embedding.wte].offset + (size_t)(letter * C + i)] = sign * 4.0 / C;
        }
    set_weights(model, params);
    free(params);
}

/* The answers are known: by the mean, endings of one half; by the sum, the shortest. */
static void test_known_answers(void **state) {
    (void)state;
    static const char text[] =
        "{\"ctx\":\"a\",\"endings\":[\"an\",\"abcabcabc\",\"azbycxd\",\"nanana\"],\"label\":1}\n"   /* mean */
        "{\"ctx\":\"z\",\"endings\":[\"zyxwzyxw\",\"za\",\"ananan\",\"zaza\"],\"label\":0}\n"       /* mean */
        "{\"ctx\":\"b\",\"endings\":[\"anan\",\"naan\",\"zyza\",\"qrst\"],\"label\":3}\n"           /* both */
        "{\"ctx\":\"c\",\"endings\":[\"abcdabcdabcd\",\"az\",\"nanana\",\"azazaz\"],\"label\":1}\n" /* sum */
        "{\"ctx\":\"d\",\"endings\":[\"abcd\",\"azaz\",\"nana\",\"zazb\"],\"label\":2}\n";          /* none */
    GPT2Config config = gpt2_config(1, 1, 16, 16, 256);
    Backend *be = open_cpu(DTYPE_FLOAT32, 1);
    GPT2 model;
    gpt2_create(&model, &config, be, 3, RECOMPUTE_NONE, false);
    set_halves(&model);
    int examples;
    Error error;
    Hellaswag *set;
    if (!prepare(text, &examples, &error)) fail_msg("%s", error.text);
    if (!hellaswag_open(&set, test_path("hellaswag.bin"), 256, &error)) fail_msg("%s", error.text);
    HellaswagExample first = hellaswag_example(set, 0);
    int count;
    double same = log(13 * exp(4) + 13 * exp(-4) + 230) - 4, begin = same + 4 + log(256);
    assert_error_below(fabs(loss_alone(&model, &first, 0, &count) - (begin + same + 8)), 1e-3, "the short ending");
    assert_error_below(fabs(loss_alone(&model, &first, 1, &count) - (begin + 8 * same)), 1e-3, "the long ending");
    assert_int_equal(count, 10);
    Comm *comm = comm_open_single();
    HellaswagScore score = hellaswag_score(&model, set, 3, comm);
    assert_int_equal(score.examples, 5);
    assert_float_equal(score.accuracy, 2.0 / 5, 1e-12);
    assert_float_equal(score.accuracy_norm, 3.0 / 5, 1e-12);
    free(comm);
    hellaswag_close(set);
    gpt2_free(&model);
    be->close(be);
}

/* ---- the trainer ---- */

static cJSON *run(const char *name, int processes, const char *arguments) {
    Launch launch = {.config = train_small_config(), .processes = processes};
    train(&launch, name, "--data.hellaswag=%s %s", test_path("hellaswag.bin"), arguments);
    return train_log(name);
}

/* The steps of the lines, or their scores. */
static double *lines_of(const cJSON *log, const char *event, const char *key, int *count) {
    *count = -1;
    return log_numbers(log, event, key, count);
}

static void assert_same_lines(const cJSON *log, const cJSON *expected) {
    static const char *const keys[] = {"step", "accuracy", "accuracy_norm", "examples"};
    for (size_t k = 0; k < ARRAY_LENGTH(keys); k++) {
        int count, wanted;
        double *numbers = lines_of(log, "hellaswag", keys[k], &count);
        double *others = lines_of(expected, "hellaswag", keys[k], &wanted);
        assert_int_equal(count, wanted);
        assert_memory_equal(numbers, others, (size_t)count * sizeof *numbers);
        free(numbers), free(others);
    }
}

/* A line wherever there is one of a validation. */
static void check_lines(const cJSON *log, int examples) {
    int lines, validations;
    double *steps = lines_of(log, "hellaswag", "step", &lines), *others = lines_of(log, "val", "step", &validations);
    double *scores = lines_of(log, "hellaswag", "accuracy_norm", &lines);
    assert_int_equal(lines, 4); /* before the first step, every fourth, and after the last */
    assert_int_equal(validations, lines);
    assert_memory_equal(steps, others, (size_t)lines * sizeof *steps);
    for (int i = 0; i < lines; i++) {
        double right = scores[i] * examples;
        assert_true(right >= 0.0 && right <= examples && fabs(right - round(right)) < 1e-6);
    }
    free(steps), free(others), free(scores);
}

/* The same lines from a run that was stopped after a checkpoint and resumed, and from two processes. */
static void test_trainer(void **state) {
    (void)state;
    enum { EXAMPLES = 25 };
    int examples;
    Error error;
    char *text = random_examples(EXAMPLES);
    if (!prepare(text, &examples, &error)) fail_msg("%s", error.text);
    free(text);
    cJSON *log = run("whole", 0, "");
    check_lines(log, EXAMPLES);
    cJSON_Delete(run("part", 0, "--max_iters=8" TRAIN_WHOLE_SCHEDULE));
    assert_run(
        test_run("cd '%s' && rm -r step_00000008 && ln -sfn step_00000006 latest", test_path("part/checkpoints")), 0,
        "");
    cJSON *resumed = run("part", 0, "--init_from=resume");
    assert_same_lines(resumed, log);
    cJSON_Delete(resumed);
    if (strcmp(test_device(), "cpu") == 0 && train_has_mpi()) { /* there may be but one GPU */
        cJSON *two = run("two", 2, "--batch_size=3");
        assert_same_lines(two, log);
        cJSON_Delete(two);
    }
    cJSON_Delete(log);
}

static void assert_hellaswag_refused(const char *path, const char *more, const char *text) {
    Launch launch = {.config = train_small_config()};
    assert_run(train_run(&launch, "refused", "--data.hellaswag='%s' %s", path, more), EXIT_FAILED, text);
}

static void test_trainer_refuses(void **state) {
    (void)state;
    assert_hellaswag_refused(test_path("no_such.bin"), "", "error: data.hellaswag: ");
    assert_hellaswag_refused("README.md", "", "data.hellaswag: README.md is no HellaSwag file: it looks like text; ");
    assert_hellaswag_refused("dev/golden/tiny_val.bin", "", "tiny_val.bin is no HellaSwag file; expected ");
    assert_hellaswag_refused("dev/golden/tiny_train_raw.bin", "", "tiny_train_raw.bin is no HellaSwag file; expected ");
    /* Data of another tokenizer, which says so next to it. */
    int examples;
    Error error;
    if (!prepare(good_line, &examples, &error)) fail_msg("%s", error.text);
    assert_run(test_run("mkdir '%s' && cp dev/golden/tiny_train.bin '%s'", test_path("other"), test_path("other")), 0,
               "");
    test_write_text(test_path("other/tokens.json"), "{\"tokenizer\": \"characters\", \"vocab_size\": 65}");
    static const char *const keys[] = {"data.train", "data.val"};
    for (size_t i = 0; i < ARRAY_LENGTH(keys); i++) {
        char *more = format_string("--%s='%s'", keys[i], test_path("other/tiny_train.bin"));
        assert_hellaswag_refused(test_path("hellaswag.bin"), more, "are those of a vocabulary of 256, and of 65 in ");
        free(more);
    }
}

static void test_prepares(void **state) {
    (void)state;
    char *program = test_program("prepare_data");
    test_write_text(test_path("val.jsonl"), good_line);
    assert_run(test_run("'%s' --hellaswag --tokenizer=bytes --out='%s' '%s'", program, test_path("made"),
                        test_path("val.jsonl")),
               0, "1 examples in ");
    /* Again, in place of its own file, and not in place of another one. */
    const char *again = "'%s' --hellaswag --tokenizer=bytes --out='%s' '%s'";
    assert_run(test_run(again, program, test_path("made"), test_path("val.jsonl")), 0, "1 examples in ");
    test_write_text(test_path("made/hellaswag.bin"), "somebody's");
    assert_run(test_run(again, program, test_path("made"), test_path("val.jsonl")), 1,
               "made/hellaswag.bin is in the way: it is no HellaSwag file; move it away");
    char *content = test_read_file(test_path("made/hellaswag.bin"), NULL);
    assert_string_equal(content, "somebody's");
    free(content);
    assert_run(test_run(again, program, test_path("val.jsonl"), test_path("val.jsonl")), 1,
               "val.jsonl is no folder; give one with --out");
    assert_run(test_run("'%s' --hellaswag --tokenizer=bytes a b", program), 2, "name the one file");
    assert_run(test_run("'%s' --hellaswag --inspect a", program), 2, "which hellaswag.bin is none of");
    free(program);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_from_json_lines), cmocka_unit_test(test_bad_lines),
        cmocka_unit_test(test_damaged_files),   cmocka_unit_test(test_score),
        cmocka_unit_test(test_known_answers),   cmocka_unit_test(test_trainer),
        cmocka_unit_test(test_trainer_refuses), cmocka_unit_test(test_prepares),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
