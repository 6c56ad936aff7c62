# metrics.awk: what one run's metrics.jsonl says, as one line of tab-separated fields; "-" is what it does not say.
#
#   awk -v run=runs/mine [-v budgets="1000000 2000000"] -f scripts/metrics.awk <runs/mine/metrics.jsonl
#
# The fields: 1 run, 2 optimizer (its name; "-exact" follows for a MARS that is not approximate, then "-gamma-G" for one
# with another gamma than 0.025), 3 optimizer as people write it, 4 model, 5 data set, 6 learning rate, 7 last step,
# 8 its tokens, 9 best validation loss, 10 its step, 11 status (done, stopped, skipped: ended by gradients that are not
# finite, unfinished), 12 tokens per second, 13 optimizer's part of a step's time in percent, 14 bytes of optimizer state
# per parameter, 15 data.train, and for each budget, in tokens, two more: the best validation loss so far, and 1 where
# the run has got that far, else 0.
#
# The run may still be going on, or have been killed in the middle of a line. Of a step that occurs twice the last line
# counts, and so does the last start line.

# The number of a key in the text, or "" where there is none.
function number(text, key,    at) {
    if (!match(text, "\"" key "\":-?[0-9][-+.0-9eE]*")) return ""
    at = RSTART + length(key) + 3
    return substr(text, at, RSTART + RLENGTH - at)
}

# The string of a key, without a look at what a backslash may hide.
function string(text, key,    at) {
    if (!match(text, "\"" key "\":\"[^\"]*\"")) return ""
    at = RSTART + length(key) + 4
    return substr(text, at, RSTART + RLENGTH - 1 - at)
}

# What stands between the braces of a section of the config, which has no braces inside.
function section(text, name) {
    if (!match(text, "\"" name "\":\\{[^}]*\\}")) return ""
    return substr(text, RSTART, RLENGTH)
}

function known(value) { return value == "" ? "-" : value }

function optimizer_title(id,    title, variant) {
    if (match(id, /-gamma-/)) {
        variant = " gamma " substr(id, RSTART + RLENGTH)
        id = substr(id, 1, RSTART - 1)
    }
    if (sub(/-exact$/, "", id)) variant = " exact" variant
    title["adamw"] = "AdamW"
    title["mars-adamw"] = "MARS-AdamW"
    title["mars-lion"] = "MARS-Lion"
    title["mars-shampoo"] = "MARS-Shampoo"
    title["muon"] = "Muon"
    title["moonlight"] = "Moonlight"
    title["mars-m"] = "MARS-M"
    title["mars-m-efficient"] = "MARS-M efficient"
    title["sgd-sai"] = "SGD-SaI"
    title["normuon"] = "NorMuon"
    title["mars-normuon"] = "MARS-NorMuon"
    return (id in title ? title[id] : id) variant
}

# The sizes of GPT-2 by their names, others as layers x width. Losses over other sequences or another vocabulary are
# not to be compared, so these are part of it where they are not GPT-2's.
function model_title(model,    shape, names, title) {
    shape = number(model, "n_layer") "x" number(model, "n_embd")
    names["12x768"] = "small"
    names["24x1024"] = "medium"
    names["36x1280"] = "large"
    names["48x1600"] = "XL"
    title = shape in names ? names[shape] : shape
    if (number(model, "block_size") != 1024) title = title " T=" number(model, "block_size")
    if (number(model, "vocab_size") < 50257) title = title " V=" number(model, "vocab_size")
    return title variant_title(model)
}

# What makes the model another one than GPT-2, in words of the config.
function variant_title(model,    title) {
    if (string(model, "position") ~ /^rope/) title = title " " string(model, "position")
    if (string(model, "norm") == "rmsnorm") title = title " rmsnorm"
    if (model ~ /"norm_embedding":true/) title = title " norm_embedding"
    if (model ~ /"qk_norm":true/) title = title " qk_norm"
    if (string(model, "activation") == "relu2") title = title " relu2"
    if (model ~ /"tie_embeddings":false/) title = title " untied"
    if (number(model, "logit_softcap") > 0) title = title " softcap"
    if (number(model, "dropout") > 0) title = title " dropout"
    return title
}

function data_title(path,    lower) {
    lower = tolower(path)
    if (lower ~ /fineweb/) return lower ~ /edu/ ? "FineWeb-Edu" : "FineWeb"
    if (lower ~ /openwebtext|owt/) return "OpenWebText"
    return sub(/\/[^\/]*$/, "", path) ? path : "this folder"
}

# A line cut short by a kill has no end; where another follows on the same line, that one counts.
{ while (at = index(substr($0, 2), "{\"event\":\"")) $0 = substr($0, at + 1) }

/^\{"event":"/ && /\}$/ {
    event = string($0, "event")
    if (event == "start" && index($0, ",\"resumed_from\":")) {
        optimizer = section($0, "optimizer")
        id = string(optimizer, "name")
        gamma = number(optimizer, "gamma")
        if (optimizer ~ /"is_approx":false/ && id ~ /^mars-/) id = id "-exact"
        if (gamma != "" && gamma - 0.025 != 0 && id ~ /^mars-/) id = id "-gamma-" gamma
        rate = number(optimizer, "muon_learning_rate")
        if (rate == "") rate = number(optimizer, "learning_rate")
        train_path = string(section($0, "data"), "train")
        model = model_title(section($0, "model"))
        parameters = number($0, "parameters")
    }
    if ((event == "train" || event == "val") && number($0, "tokens") - tokens > 0) {
        tokens = number($0, "tokens")
        step = number($0, "step") + (event == "train") # of a train line the step is the one before its update
    }
    if (event == "val") {
        loss[number($0, "step")] = number($0, "loss")
        seen[number($0, "step")] = number($0, "tokens")
    }
    if (event == "end") end = $0
    else if (event != "checkpoint") end = ""
    status = event == "end" ? string($0, "reason") : event == "skipped" ? "skipped" : "unfinished"
}

END {
    wanted = split(budgets, budget, " ")
    for (at in loss) {
        if (seen[at] - reached > 0) reached = seen[at]
        if (loss[at] == "") continue
        if (best == "" || loss[at] - best < 0 || (loss[at] == best && at - best_step < 0)) {
            best = loss[at]
            best_step = at
        }
        for (i = 1; i <= wanted; i++)
            if (seen[at] - budget[i] <= 0 && (until[i] == "" || loss[at] - until[i] < 0)) until[i] = loss[at]
    }
    seconds = number(end, "train_seconds")
    trained = number(end, "train_tokens")
    if (trained == "") trained = tokens
    speed = seconds > 0 ? sprintf("%.0f", trained / seconds) : ""
    share = seconds > 0 && number(end, "optimizer_seconds") != "" ? \
        sprintf("%.1f", 100 * number(end, "optimizer_seconds") / seconds) : ""
    state = parameters > 0 && number(end, "optimizer_state_bytes") != "" ? \
        sprintf("%.1f", number(end, "optimizer_state_bytes") / parameters) : ""
    line = run "\t" known(id) "\t" known(optimizer_title(id)) "\t" known(model) "\t" known(data_title(train_path)) \
        "\t" known(rate) "\t" known(step) "\t" known(tokens) "\t" known(best) "\t" known(best_step) \
        "\t" known(status) "\t" known(speed) "\t" known(share) "\t" known(state) "\t" known(train_path)
    for (i = 1; i <= wanted; i++) line = line "\t" known(until[i]) "\t" (reached - budget[i] >= 0 ? 1 : 0)
    print line
}
