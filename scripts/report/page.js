/* page.js: draws the report page from the JSON that report_page.py puts into it.
 *
 * dygraphs draws each chart. Text from files (names, prompts, samples, configs) reaches the page through textContent
 * alone. Where report.sh --watch serves the page, it asks for runs that have changed, and keeps zoom and selection. */
'use strict';

const data = JSON.parse(document.getElementById('data').textContent);
const byId = (id) => document.getElementById(id);

// The colours of scripts/plot.sh. Runs beyond the 12th get dashes.
const COLOURS = ['1f77b4', 'd62728', '2ca02c', '9467bd', 'ff7f0e', '17becf', '8c564b', 'e377c2', '202020', 'bcbd22',
    '888888', '00008b'];
const LIGHTER = {'202020': 'e8e8e8', '00008b': '8f8fff'}; // on a dark page
const DASHES = [null, [8, 4], [2, 3], [10, 3, 2, 3], [14, 6]];
const SHOWN_VALUES = 12; // rows of the box next to the pointer
const MANY_POINTS = 60;  // with more, the dots of validations are small
const MANY_RUNS = 8;     // with more, the losses of single steps are off at first

const CHARTS = [
    {id: 'loss', title: 'Loss, nats per token', digits: (y) => y.toFixed(4)},
    {id: 'grad_norm', title: 'Gradient norm, before clipping', digits: (y) => y.toPrecision(4)},
    {id: 'lr', title: 'Learning rate', digits: (y) => String(Number(y.toPrecision(4)))},
    {id: 'tokens_per_s', title: 'Tokens per second', digits: (y) => grouped(Math.round(y))},
    {id: 'skipped', title: 'Skipped steps so far', digits: (y) => grouped(y), none: 'No step was skipped.'},
    {id: 'hellaswag', title: 'HellaSwag, accuracy_norm', digits: (y) => y.toFixed(4), optional: true},
];

const state = {
    off: new Set(),            // ids of runs that are not drawn
    published: new Map(),      // key of a published run: whether the user wants it drawn
    xWindow: null,             // the x range that the user zoomed to
    smoothing: null,           // steps of the mean; null: not set by the user
    sort: {key: null, down: false},
};
const runs = new Map(); // by id, in the order in which they are listed
const isLive = data.live;

// ---- numbers and elements ----

function grouped(n) { return String(n).replace(/\B(?=(\d{3})+$)/g, ','); }

function short(n) {
    for (const [unit, name] of [[1e12, 'T'], [1e9, 'B'], [1e6, 'M'], [1e3, 'k']])
        if (Math.abs(n) >= unit) return Number((n / unit).toPrecision(4)) + name;
    return String(Number(n.toPrecision(4)));
}

function element(name, properties, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(properties || {})) {
        if (key in made) made[key] = value;
        else made.setAttribute(key, value);
    }
    made.append(...children);
    return made;
}

function isDark() { return matchMedia('(prefers-color-scheme: dark)').matches; }

function cssColour(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }

function colourOf(index, alpha) {
    let hex = COLOURS[index % COLOURS.length];
    if (isDark() && hex in LIGHTER) hex = LIGHTER[hex];
    const part = (at) => parseInt(hex.slice(at, at + 2), 16);
    return `rgba(${part(0)},${part(2)},${part(4)},${alpha})`;
}

function dashOf(index) { return DASHES[Math.floor(index / COLOURS.length) % DASHES.length]; }

function swatch(colour, dash) {
    const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
    const line = document.createElementNS('http://www.w3.org/2000/svg', 'line');
    svg.setAttribute('class', 'swatch');
    svg.setAttribute('aria-hidden', 'true');
    for (const [key, value] of Object.entries({x1: 0, x2: 22, y1: 4, y2: 4, stroke: colour, 'stroke-width': 3,
        'stroke-dasharray': dash ? dash.join(' ') : 'none'})) line.setAttribute(key, value);
    svg.append(line);
    return svg;
}

function swatchOf(run) { return swatch(colourOf(run.id, 1), dashOf(run.id)); }

function setShown(id, isShown) {
    if (isShown) state.off.delete(id);
    else state.off.add(id);
}

function shownRuns() { return [...runs.values()].filter((run) => !state.off.has(run.id)); }

// ---- curves ----

/* The values of a run's clock ("tokens" or "hours") after these numbers of updates, which ascend: between two points of
 * the clock on the line through them. */
function atUpdates(clock, what, updates) {
    const known = clock.updates, values = clock[what];
    let i = 0;
    return updates.map((at) => {
        while (i + 1 < known.length && known[i + 1] <= at) i++;
        if (i + 1 >= known.length) return values[i];
        return values[i] + (values[i + 1] - values[i]) * (at - known[i]) / (known[i + 1] - known[i]);
    });
}

/* Where the points of a series stand on the x axis. The step of a train event is that before its update, its tokens and
 * hours are those after it. */
function positions(run, steps, isValidation) {
    const what = byId('x').value;
    if (what === 'steps') return steps;
    return atUpdates(run.clock, what, isValidation ? steps : steps.map((step) => step + 1));
}

function pointsOf(run, series, isValidation, values) {
    if (!series) return [];
    const x = positions(run, series.step, isValidation);
    return (values || series.value).map((y, i) => [x[i], y]);
}

/* The mean of the training losses of the last `steps` steps, from the means of groups of reports. */
function smoothed(series, steps) {
    let sum = 0, count = 0, first = 0;
    return series.step.map((step, i) => {
        sum += series.value[i] * series.count[i];
        count += series.count[i];
        for (; series.step[first] <= step - steps && first < i; first++) {
            sum -= series.value[first] * series.count[first];
            count -= series.count[first];
        }
        return sum / count;
    });
}

/* A curve: key (unique in its chart), name and kind for the reader, points [x, y], and how it looks. `isFaint` curves
 * do not count for the y range. */
function runCurve(run, kind, points, looks) {
    return Object.assign({key: `${run.id} ${kind}`, name: run.name, kind, points, colour: colourOf(run.id, 1),
        dash: dashOf(run.id), width: 1.3}, looks);
}

function lossCurves(shown) {
    const curves = [];
    for (const run of shown) {
        if (byId('show-train').checked)
            curves.push(runCurve(run, 'each step', pointsOf(run, run.series.loss),
                {colour: colourOf(run.id, 0.28), dash: null, width: 1, isFaint: true}));
        if (byId('show-smooth').checked && run.series.mean_loss)
            curves.push(runCurve(run, 'training',
                pointsOf(run, run.series.mean_loss, false, smoothed(run.series.mean_loss, smoothingSteps()))));
        if (byId('show-val').checked) {
            const points = pointsOf(run, run.series.val, true);
            curves.push(runCurve(run, 'validation', points, {width: 2, dots: points.length > MANY_POINTS ? 1.2 : 2.8}));
            curves.push(runCurve(run, 'validation, average of weights', pointsOf(run, run.series.ema, true),
                {width: 1, dots: 3.5}));
        }
    }
    return curves;
}

function chartCurves(chart, shown) {
    if (chart.id === 'loss') return lossCurves(shown);
    return shown.map((run) => runCurve(run, '', pointsOf(run, run.series[chart.id], chart.id === 'hellaswag'),
        {isStair: chart.id === 'skipped', dots: chart.id === 'hellaswag' ? 2.5 : 0}));
}

/* Published losses: a line across the chart at the last one, and points at those before, or a whole curve. Against
 * hours there are only the lines. */
function publishedCurves(range) {
    const what = byId('x').value, curves = [];
    for (const entry of listedPublished()) {
        if (!isPublishedShown(entry)) continue;
        const looks = {name: entry.title, colour: publishedColour(entry), dash: [2, 4], width: 1.6};
        const points = what === 'hours' ? [] :
            entry.points.map((point) => [point[what], point.loss]).filter(([x]) => x >= range[0] && x <= range[1]);
        const last = entry.points[entry.points.length - 1].loss;
        if (entry.is_curve)
            curves.push({key: entry.key + ' curve', kind: 'published', points, ...looks});
        else
            curves.push({key: entry.key + ' line', kind: 'published', points: range.map((x) => [x, last]), ...looks},
                {key: entry.key + ' points', kind: 'published here', points, ...looks, width: 0, dots: 4,
                    isMark: true});
    }
    return curves;
}

// ---- published runs ----

function isOfRun(entry, run) {
    if (entry.recipe) return entry.recipe === run.summary_row.recipe;
    return entry.data === run.summary_row.data && entry.model === run.summary_row.model;
}

function hasOptimizer(entry, run) { return isOfRun(entry, run) && entry.optimizer === run.summary_row.optimizer; }

/* Those of the data and model of a run that is drawn. */
function listedPublished() {
    const shown = shownRuns();
    return data.published_curves.filter((entry) => shown.some((run) => isOfRun(entry, run)));
}

function isPublishedShown(entry) {
    if (state.published.has(entry.key)) return state.published.get(entry.key);
    return shownRuns().some((run) => hasOptimizer(entry, run));
}

function publishedColour(entry) {
    const run = shownRuns().find((one) => hasOptimizer(entry, one));
    return run ? colourOf(run.id, 0.9) : cssColour('--faint');
}

// ---- charts ----

function visibleValues(curves, range) {
    let low = Infinity, high = -Infinity;
    for (const curve of curves) {
        for (const [x, y] of curve.points) {
            if (y === null || x < range[0] || x > range[1]) continue;
            if (y < low) low = y;
            if (y > high) high = y;
        }
    }
    return [low, high];
}

/* The y range of a chart over a range of x. The first losses, near 11, would leave no room for the rest, so they are
 * cut off unless the user wants them or has zoomed in. */
function yRange(chart, range) {
    const clear = chart.curves.filter((curve) => !curve.isFaint && curve.points.length > 0);
    let [low, high] = visibleValues(clear.length > 0 ? clear : chart.curves, range);
    if (low > high) return [0, 1];
    if (chart.id === 'loss' && !state.xWindow && !byId('whole').checked) {
        const last = Math.max(...clear.map((curve) => curve.points[curve.points.length - 1][1]));
        const top = Math.max(1.05 * last, Math.min(1.3 * low, 1.02 * high));
        return [low - 0.05 * (top - low), top];
    }
    if (chart.id === 'skipped') low = 0;
    if (chart.log.checked) {
        const margin = Math.max(Math.pow(high / low, 0.04), 1.001);
        return [low / margin, high * margin];
    }
    const margin = 0.05 * (high - low) || 0.05 * Math.abs(high) || 1;
    return [low >= 0 ? Math.max(low - margin, 0) : low - margin, high + margin];
}

/* Its number of steps, at least 1. */
function longestRun() { return Math.max(1, ...[...runs.values()].map((run) => run.summary_row.steps || 1)); }

function smoothingChoices() {
    const choices = [];
    const last = longestRun();
    for (let power = 1; power <= last; power *= 10)
        for (const factor of [1, 2, 5]) if (factor * power <= Math.max(1, last / 2)) choices.push(factor * power);
    return choices;
}

/* A hundredth of the longest run, unless the user sets it. */
function smoothingSteps() {
    if (state.smoothing !== null) return state.smoothing;
    return smoothingChoices().filter((steps) => steps <= Math.max(1, longestRun() / 100)).pop();
}

function formatX(x) {
    const what = byId('x').value;
    if (what === 'steps') return 'step ' + grouped(Math.round(x));
    return what === 'tokens' ? short(x) + ' tokens' : Number(x.toPrecision(4)) + ' h';
}

/* Log axes of less than a decade get the ticks of linear ones, which are more. */
function ticker(low, high, pixels, options, graph, values) {
    const isWide = low > 0 && high / low > 20;
    return (isWide ? Dygraph.numericTicks : Dygraph.numericLinearTicks)(low, high, pixels, options, graph, values);
}

for (const chart of CHARTS) {
    chart.log = element('input', {type: 'checkbox'});
    chart.log.addEventListener('change', () => { chart.yWindow = null; draw(); });
    chart.plot = element('div', {className: 'plot'});
    chart.empty = element('div', {className: 'empty', hidden: true});
    chart.pointer = element('div', {className: 'pointer', hidden: true});
    chart.values = element('div', {className: 'values', hidden: true});
    chart.box = element('div', {className: chart.id === 'loss' ? 'chart large' : 'chart', id: 'chart-' + chart.id},
        element('div', {className: 'head'}, element('h3', {}, chart.title),
            element('label', {hidden: chart.id === 'skipped'}, chart.log, 'log'),
            ...(chart.id === 'loss' ? byId('loss-controls').content.children : [])),
        chart.plot, chart.empty, chart.pointer, chart.values);
    byId('charts').append(chart.box);
    chart.curves = [];
    chart.drawn = new Map();
    chart.yWindow = null;
    // dygraphs finds the points under the pointer by their row, which curves here do not share.
    chart.plot.addEventListener('mousemove', (event) => {
        if (event.buttons === 0) event.stopPropagation();
        showValues(chart, event);
    }, true);
    chart.plot.addEventListener('mouseleave', () => { chart.pointer.hidden = chart.values.hidden = true; });
}

/* dygraphs takes one table with a row for each x. Runs have few steps in common, so this gives it each curve by
 * itself. */
function handlerOf(chart) {
    return class extends Dygraph.DataHandlers.DefaultHandler {
        extractSeries(rows, column) { return chart.curves[column - 1].points; }
    };
}

/* A square, where validations have dots. */
function drawMark(graph, name, context, x, y, colour, size) {
    context.fillStyle = cssColour('--back');
    context.strokeStyle = colour;
    context.lineWidth = 2;
    context.fillRect(x - size, y - size, 2 * size, 2 * size);
    context.strokeRect(x - size, y - size, 2 * size, 2 * size);
}

/* Draws a line as dygraphs does, and notes what was drawn. */
function notingPlotter(chart) {
    return (event) => {
        const points = event.points.filter((point) => Number.isFinite(point.canvasy));
        if (points.length > 0) chart.drawn.set(event.setName, points.map((point) => [point.xval, point.yval]));
        Dygraph.Plotters.linePlotter(event);
    };
}

function resetZoom() {
    state.xWindow = null;
    for (const chart of CHARTS) chart.yWindow = null;
    draw();
}

function zoomed(chart, low, high, yRanges) {
    const [oldLow, oldHigh] = chart.window;
    if (low !== oldLow || high !== oldHigh) {
        state.xWindow = [low, high];
    } else {
        chart.yWindow = yRanges[0];
    }
    draw();
}

function drawChart(chart, shown, full) {
    const range = state.xWindow || full;
    const isLogX = byId('x-log').checked;
    const hasPublished = chart.id === 'loss' && chart.all.some((curve) => curve.points.length > 0);
    const all = hasPublished ? [...chart.all, ...publishedCurves(full)] : chart.all;
    const canShow = ([x, y]) => Number.isFinite(x) && Number.isFinite(y) && (!isLogX || x > 0) &&
        (!chart.log.checked || y > 0);
    chart.curves = all.map((curve) => Object.assign(curve, {points: curve.points.filter(canShow)}))
        .filter((curve) => curve.points.length > 0);
    const isEmpty = chart.curves.length === 0;
    chart.box.hidden = isEmpty && Boolean(chart.optional);
    chart.plot.hidden = isEmpty;
    chart.empty.hidden = !isEmpty;
    chart.empty.textContent = shown.length === 0 ? 'No run is drawn.' : chart.none || 'No values yet.';
    chart.pointer.hidden = chart.values.hidden = true;
    chart.drawn.clear();
    if (isEmpty) return;
    const series = {};
    for (const curve of chart.curves)
        series[curve.key] = {color: curve.colour, strokeWidth: curve.width, strokePattern: curve.dash,
            drawPoints: Boolean(curve.dots), pointSize: curve.dots || 0, stepPlot: Boolean(curve.isStair),
            drawPointCallback: curve.isMark ? drawMark : null};
    chart.window = range;
    const nothing = chart.curves.map(() => null);
    const options = {
        file: full.map((x) => [x, ...nothing]),
        labels: ['x', ...chart.curves.map((curve) => curve.key)],
        series,
        dateWindow: range,
        logscale: chart.log.checked,
        axes: {
            x: {logscale: isLogX, ticker, axisLabelFormatter: short},
            y: {valueRange: chart.yWindow || yRange(chart, range), ticker, axisLabelFormatter: short,
                axisLabelWidth: 52},
        },
        axisLineColor: cssColour('--line'),
        gridLineColor: cssColour('--grid'),
    };
    if (chart.graph) {
        chart.graph.updateOptions(options);
        chart.graph.resize();
        return;
    }
    const {file, ...rest} = options;
    chart.graph = new Dygraph(chart.plot, file, Object.assign(rest, {
        dataHandler: handlerOf(chart),
        plotter: notingPlotter(chart),
        legend: 'never',
        highlightCircleSize: 0,
        interactionModel: {
            ...Dygraph.defaultInteractionModel,
            mousedown: (event, graph, context) => {
                if (!event.shiftKey && !event.altKey)
                    Dygraph.defaultInteractionModel.mousedown(event, graph, context);
            },
            dblclick: resetZoom,
        },
        zoomCallback: (low, high, yRanges) => zoomed(chart, low, high, yRanges),
    }));
}

/* The first and last x of all runs that are drawn, in all charts. */
function fullRange(charts) {
    const isLogX = byId('x-log').checked;
    let low = Infinity, high = -Infinity;
    for (const chart of charts) {
        for (const {points} of chart.all) {
            const first = isLogX ? points.find(([x]) => x > 0) : points[0];
            if (!first) continue;
            low = Math.min(low, first[0]);
            high = Math.max(high, points[points.length - 1][0]);
        }
    }
    if (low > high) return [1, 2];
    return low < high ? [low, high] : [low, low > 0 ? 2 * low : low + 1];
}

function draw() {
    const shown = shownRuns();
    for (const chart of CHARTS) chart.all = chartCurves(chart, shown);
    const full = fullRange(CHARTS);
    for (const chart of CHARTS) drawChart(chart, shown, full);
    byId('reset').disabled = !state.xWindow && CHARTS.every((chart) => !chart.yWindow);
    listDrawn();
}

// ---- values next to the pointer ----

function nearest(points, x) {
    let low = 0, high = points.length - 1;
    while (high - low > 1) {
        const middle = (low + high) >> 1;
        if (points[middle][0] <= x) low = middle;
        else high = middle;
    }
    return Math.abs(points[high][0] - x) < Math.abs(points[low][0] - x) ? points[high] : points[low];
}

function showValues(chart, event) {
    if (!chart.graph || chart.curves.length === 0) return;
    const graph = chart.graph, area = graph.getArea();
    const [left, top] = graph.eventToDomCoords(event);
    if (left < area.x || left > area.x + area.w || top < area.y || top > area.y + area.h) {
        chart.pointer.hidden = chart.values.hidden = true;
        return;
    }
    const x = graph.toDataXCoord(left), reach = 0.03 * (chart.window[1] - chart.window[0]);
    let rows = chart.curves.filter((curve) => !curve.isFaint || chart.curves.every((other) => other.isFaint))
        .map((curve) => curve.kind === 'published' && curve.points.length === 2 ?
            {curve, point: [x, curve.points[0][1]]} : {curve, point: nearest(curve.points, x)})
        .filter(({point}) => Math.abs(point[0] - x) <= reach)
        .map((row) => ({...row, distance: Math.abs(graph.toDomYCoord(row.point[1]) - top)}));
    rows.sort((a, b) => a.distance - b.distance);
    const more = rows.length - SHOWN_VALUES;
    rows = rows.slice(0, SHOWN_VALUES).sort((a, b) => b.point[1] - a.point[1]);
    const table = element('table', {}, ...rows.map(({curve, point}) => element('tr', {},
        element('td', {}, swatch(curve.colour, curve.dash)),
        element('td', {className: 'name'}, curve.name),
        element('td', {className: 'faint'}, curve.kind),
        element('td', {className: 'faint'}, point[0] === x ? '' : formatX(point[0])),
        element('td', {}, chart.digits(point[1])))));
    chart.values.replaceChildren(element('b', {}, formatX(x)), table);
    if (more > 0) chart.values.append(element('div', {className: 'faint'}, `and ${more} more`));
    const offset = chart.plot.offsetTop;
    Object.assign(chart.pointer.style, {left: left + 'px', top: offset + area.y + 'px', height: area.h + 'px'});
    chart.pointer.hidden = chart.values.hidden = false;
    const width = chart.values.offsetWidth, isRight = left + width + 20 > chart.plot.clientWidth;
    chart.values.style.left = Math.max(0, isRight ? left - width - 14 : left + 14) + 'px';
    chart.values.style.top = offset + area.y + 6 + 'px';
}

// ---- the lists of runs and published losses ----

/* Those with the text of the filter in their names. */
function matchingRuns() {
    const part = byId('filter').value.toLowerCase();
    return [...runs.values()].filter((run) => run.name.toLowerCase().includes(part));
}

function listRuns() {
    byId('runs').replaceChildren(...matchingRuns().map((run) => {
        const box = element('input', {type: 'checkbox', checked: !state.off.has(run.id)});
        box.addEventListener('change', () => {
            setShown(run.id, box.checked);
            selectionChanged();
        });
        const only = element('button', {type: 'button', title: 'draw this run alone'}, 'only');
        only.addEventListener('click', () => {
            for (const id of runs.keys()) setShown(id, id === run.id);
            selectionChanged();
        });
        return element('div', {className: 'entry', title: run.folder},
            element('label', {}, box, swatchOf(run), element('span', {className: 'name'}, run.name)), only);
    }));
}

function listPublished() {
    const entries = listedPublished();
    byId('published').replaceChildren(...entries.map((entry) => {
        const box = element('input', {type: 'checkbox', checked: isPublishedShown(entry)});
        box.addEventListener('change', () => {
            state.published.set(entry.key, box.checked);
            draw();
        });
        return element('div', {className: 'entry', title: entry.title},
            element('label', {}, box, swatch(publishedColour(entry), [2, 3]),
                element('span', {className: 'name'}, entry.title)));
    }));
    if (entries.length === 0)
        byId('published').append(
            element('span', {className: 'faint'}, 'None are for the data and model of these runs.'));
}

function setListed(isOn) {
    for (const run of matchingRuns()) setShown(run.id, isOn);
    selectionChanged();
}

function selectionChanged() {
    listRuns();
    listPublished();
    listConfigs();
    listSamples();
    draw();
}

// ---- tables ----

const COLUMNS = [
    {key: 'name', title: 'run'},
    {key: 'status', title: 'status'},
    {key: 'optimizer', title: 'optimizer'},
    {key: 'model', title: 'model'},
    {key: 'data', title: 'data'},
    {key: 'rate', title: 'rate', format: String},
    {key: 'steps', title: 'steps', format: grouped},
    {key: 'tokens', title: 'tokens', format: short},
    {key: 'hours', title: 'hours', format: (n) => n.toPrecision(3)},
    {key: 'final_loss', title: 'final val loss', format: (n) => n.toFixed(4)},
    {key: 'best_loss', title: 'best val loss', format: (n) => n.toFixed(4)},
    {key: 'best_step', title: 'at step', format: grouped},
    {key: 'ema_loss', title: 'final of average', format: (n) => n.toFixed(4)},
    {key: 'tokens_per_s', title: 'tokens/s', format: (n) => grouped(Math.round(n))},
    {key: 'optimizer_percent', title: 'optimizer, % of time', format: (n) => n.toFixed(1)},
    {key: 'state_bytes', title: 'state, bytes/parameter', format: (n) => n.toFixed(1)},
    {key: 'skipped', title: 'skipped', format: grouped},
];

function makeTable(header, rows) {
    return element('table', {}, element('thead', {}, element('tr', {}, ...header)), element('tbody', {}, ...rows));
}

function valueOf(run, key) { return key === 'name' ? run.name : run.summary_row[key]; }

function compareBy(key, isDown) {
    return (one, two) => {
        const a = valueOf(one, key), b = valueOf(two, key);
        if (a === null || b === null) return (a === null) - (b === null); // unknown ones stay last
        const order = a < b ? -1 : a > b ? 1 : 0;
        return isDown ? -order : order;
    };
}

function nameCell(run) { return element('td', {className: 'cell-name'}, swatchOf(run), ' ' + run.name); }

function listSummary() {
    const listed = [...runs.values()];
    const {key, down} = state.sort;
    if (key) listed.sort(compareBy(key, down));
    const columns = COLUMNS.filter((column) => listed.some((run) => valueOf(run, column.key) !== null));
    const header = columns.map((column) => {
        const button = element('button', {type: 'button'}, column.title);
        button.addEventListener('click', () => {
            state.sort = {key: column.key, down: key === column.key && !down};
            listSummary();
        });
        return element('th', {scope: 'col', className: column.format ? 'number' : '',
            'aria-sort': key !== column.key ? 'none' : down ? 'descending' : 'ascending'}, button);
    });
    byId('summary').lastElementChild.replaceChildren(makeTable(header, listed.map((run) => element('tr', {},
        ...columns.map((column) => {
            const value = valueOf(run, column.key);
            if (column.key === 'name') return nameCell(run);
            return element('td', {className: column.format ? 'number' : ''},
                value === null ? '–' : column.format ? column.format(value) : value);
        })))));
}

function listConfigs() {
    const shown = shownRuns();
    const keys = [...new Set(shown.flatMap((run) => Object.keys(run.config)))]
        .filter((key) => new Set(shown.map((run) => run.config[key])).size > 1);
    const place = byId('config').lastElementChild;
    if (keys.length === 0) {
        place.replaceChildren(element('p', {className: 'faint'}, shown.length < 2 ?
            'This takes two runs that are drawn.' : 'The configs of the runs that are drawn do not differ.'));
        return;
    }
    place.replaceChildren(makeTable(['run', ...keys].map((key) => element('th', {scope: 'col'}, key)),
        shown.map((run) => element('tr', {}, nameCell(run),
            ...keys.map((key) => element('td', {}, key in run.config ? run.config[key] : '–'))))));
}

function listPaper() {
    const {notes, tables} = data.published_tables;
    const tableElements = (table) => {
        const cell = (name, text, i) => element(name, {className: table.right[i] ? 'number' : ''}, text);
        return [...table.notes.map((note) => element('p', {className: 'note'}, note)),
            makeTable(table.header.map((text, i) => cell('th', text, i)),
                table.rows.map((row) => element('tr', {}, ...row.map((text, i) => cell('td', text, i)))))];
    };
    const place = byId('paper').lastElementChild;
    const isOpen = Boolean(place.querySelector('details[open]')); // stays so when runs have changed
    place.replaceChildren(element('p', {className: 'note'}, notes.join('\n')),
        ...tables.filter((table) => table.is_ours).flatMap(tableElements),
        element('details', {open: isOpen}, element('summary', {}, 'Published losses of other models and data'),
            ...tables.filter((table) => !table.is_ours).flatMap(tableElements)));
}

function listSamples() {
    const shown = shownRuns().filter((run) => run.samples.length > 0);
    byId('samples').hidden = shown.length === 0;
    byId('samples').lastElementChild.replaceChildren(...shown.map((run) => {
        const place = element('pre');
        const choice = element('select', {'aria-label': 'step'}, ...run.samples.map((sample, i) =>
            element('option', {value: i, selected: i === run.samples.length - 1}, 'step ' + grouped(sample.step))));
        const show = () => {
            const sample = run.samples[choice.value];
            place.replaceChildren(element('span', {className: 'prompt'}, sample.prompt), sample.text);
        };
        choice.addEventListener('change', show);
        show();
        return element('div', {}, element('h3', {}, swatchOf(run), ` ${run.name} `, choice), place);
    }));
}

/* What the charts show, for readers who do not see them. */
function listDrawn() {
    const header = ['chart', 'run', 'curve', 'points', 'first x', 'first y', 'last x', 'last y', 'lowest y',
        'highest y'];
    const rows = [];
    for (const chart of CHARTS) {
        for (const curve of chart.curves) {
            const points = chart.drawn.get(curve.key);
            if (!points) continue;
            const first = points[0], last = points[points.length - 1];
            let low = Infinity, high = -Infinity;
            for (const [, y] of points) {
                low = Math.min(low, y);
                high = Math.max(high, y);
            }
            rows.push([chart.id, curve.name, curve.kind, points.length, ...first, ...last, low, high]);
        }
    }
    byId('drawn').querySelector('.wide').replaceChildren(makeTable(
        header.map((text, i) => element('th', {scope: 'col', className: i > 2 ? 'number' : ''}, text)),
        rows.map((row) => element('tr', {}, ...row.map((value, i) => element('td', {className: i > 2 ? 'number' : ''},
            typeof value === 'number' ? String(Number(value.toPrecision(9))) : value))))));
}

// ---- the controls ----

function setSmoothing() {
    const choices = smoothingChoices(), slider = byId('window'), steps = smoothingSteps();
    slider.max = choices.length - 1;
    slider.value = Math.max(0, choices.filter((one) => one <= steps).length - 1);
    byId('window-steps').textContent = grouped(steps) + (steps === 1 ? ' step' : ' steps');
}

byId('window').addEventListener('input', () => {
    state.smoothing = smoothingChoices()[byId('window').value];
    setSmoothing();
    draw();
});
for (const id of ['x', 'x-log'])
    byId(id).addEventListener('change', () => { state.xWindow = null; explainX(); draw(); });
for (const id of ['whole', 'show-val', 'show-smooth', 'show-train']) byId(id).addEventListener('change', draw);
byId('reset').addEventListener('click', resetZoom);
byId('filter').addEventListener('input', listRuns);
byId('all').addEventListener('click', () => setListed(true));
byId('none').addEventListener('click', () => setListed(false));
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => { listSummary(); selectionChanged(); });

function explainX() {
    byId('about-x').textContent = byId('x').value !== 'hours' ? '' :
        'Hours of training: the time of the steps alone, without validations, checkpoints and pauses.';
}

// ---- the runs as they come ----

function take(update) {
    const known = new Map([...runs, ...update.runs.map((run) => [run.id, run])]);
    runs.clear();
    for (const id of update.order) runs.set(id, Object.assign(known.get(id), {name: update.names[id]}));
    data.version = update.version;
    data.published_tables = update.published_tables;
}

function showAll() {
    setSmoothing();
    listSummary();
    listPaper();
    selectionChanged();
}

async function follow() {
    try {
        const answer = await fetch('data?since=' + data.version);
        if (!answer.ok) throw new Error(answer.statusText);
        const update = await answer.json();
        if (update.version !== data.version) {
            take(update);
            showAll();
        }
        byId('live').textContent = 'following the runs';
    } catch (error) {
        byId('live').textContent = 'report.sh --watch does not answer';
    }
    setTimeout(follow, data.live_seconds * 1000);
}

byId('made').textContent = data.made;
take(data);
byId('show-train').checked = runs.size <= MANY_RUNS;
showAll();
byId('drawn').querySelector('summary').append(` (drawn ${Math.round(performance.now())} ms after the page was opened)`);
if (isLive) follow();
