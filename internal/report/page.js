"use strict";
// Draws the plots of a bench report. Text is set as text, never as markup: machines and
// loads are named by users.
(() => {
	const data = JSON.parse(document.getElementById("data").textContent);
	const $ = id => document.getElementById(id);
	const { policies, machines, cases, percentiles } = data;

	// Elements.

	function fill(e, attributes, children) {
		for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, typeof v === "number" ? +v.toFixed(2) : v);
		e.append(...children);
		return e;
	}
	const html = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
	const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
	const text = (x, y, s, attributes = {}) => svg("text", { x, y, ...attributes }, s);
	const title = s => svg("title", {}, s);

	// Numbers.

	const digits = (v, n = 3) => v === 0 ? "0" : String(+v.toPrecision(n));
	function si(v, unit) {
		for (const [scale, prefix] of [[1e6, "M"], [1e3, "k"], [1, ""], [1e-3, "m"], [1e-6, "µ"]]) {
			if (Math.abs(v) >= scale * 0.9995) return digits(v / scale) + " " + prefix + unit;
		}
		return digits(v) + " " + unit;
	}
	// joules is the unit that energies up to a value are best told in, and its scale.
	const joules = most => most >= 2e3 ? ["kJ", 1e-3] : most >= 1 ? ["J", 1] : most >= 1e-3 ? ["mJ", 1e3] : ["µJ", 1e6];
	const percent = v => digits(100 * v) + " %";
	const times = v => v.toFixed(3) + "×";

	// steps returns round numbers from lo to hi, some n of them.
	function steps(lo, hi, n) {
		if (!(hi > lo)) return [lo];
		const raw = (hi - lo) / n, p = 10 ** Math.floor(Math.log10(raw));
		const step = [1, 2, 5, 10].map(m => m * p).find(s => s >= raw * 0.999);
		const out = [];
		for (let i = Math.ceil(lo / step - 1e-9); i * step <= hi + step * 1e-9; i++) out.push(+(i * step).toPrecision(12));
		return out;
	}

	// course is a result's in n parts, as shares of its scale; one byte stands for all.
	function course(s, n) {
		const bytes = atob(s || "");
		return bytes.length === 0 ? [] : Array.from({ length: n }, (_, i) => bytes.charCodeAt(bytes.length === 1 ? 0 : i) / 255);
	}

	// look is a policy's colour, dash tells it apart without. There are eight of each; when
	// they are used up they come again in other pairs, but for powerd's, the first.
	const look = p => "s" + (p.style < 8 ? p.style : 1 + p.style % 7);
	const dash = p => "d" + (p.style < 8 ? p.style : 1 + (p.style + 2 + Math.floor(p.style / 7)) % 7);

	// canvas empties a figure and gives it a picture of its width.
	function canvas(figure, height, label) {
		const plot = figure.querySelector(".plot");
		const width = Math.max(260, plot.clientWidth);
		const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
		plot.replaceChildren(root);
		return [root, width];
	}

	function nothing(figure, why) {
		figure.querySelector(".plot").replaceChildren(html("p", { class: "none" }, why));
		const read = figure.querySelector(".read");
		if (read) read.textContent = "";
	}

	// lines draws series over an x axis, and reads them out where the pointer or the arrow
	// keys are. o: label; x, y: {min, max, ticks: [[value, text]], label}; series: [{points,
	// class, dots}]; areas: [{points, class}]; rules: [{x}, {y, text}]; marks: [{x, y, text}];
	// stops: where it can be
	// read, and read(i) what it says there.
	function lines(figure, o) {
		const height = 260, left = 52, right = 14, top = 26, bottom = 44;
		const [root, width] = canvas(figure, height, o.label);
		const x = v => left + (v - o.x.min) / (o.x.max - o.x.min) * (width - left - right);
		const y = v => height - bottom - (v - o.y.min) / (o.y.max - o.y.min) * (height - top - bottom);
		for (const [v, s] of o.y.ticks) {
			root.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: y(v), y2: y(v) }),
				text(left - 7, y(v) + 4, s, { "text-anchor": "end" }));
		}
		let free = -Infinity; // no label over another
		for (const [v, s] of o.x.ticks) {
			root.append(svg("line", { class: "axis", x1: x(v), x2: x(v), y1: height - bottom, y2: height - bottom + 5 }));
			const half = 3.6 * s.length;
			if (x(v) - half < free) continue;
			root.append(text(Math.min(x(v), width - half), height - bottom + 19, s, { "text-anchor": "middle" }));
			free = x(v) + half + 6;
		}
		root.append(svg("line", { class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom }),
			text(4, 14, o.y.label), text((left + width - right) / 2, height - 8, o.x.label, { "text-anchor": "middle" }));
		const path = points => points.map(([a, b]) => x(a).toFixed(1) + "," + y(b).toFixed(1)).join(" ");
		for (const a of o.areas || []) root.append(svg("polygon", { class: a.class, points: path(a.points) }));
		for (const r of o.rules || []) {
			if (r.y !== undefined) {
				root.append(svg("line", { class: "rule", x1: left, x2: width - right, y1: y(r.y), y2: y(r.y) }),
					text(left + 6, y(r.y) - 6, r.text, { class: "strong halo" }));
			} else {
				root.append(svg("line", { class: "rule", x1: x(r.x), x2: x(r.x), y1: top, y2: height - bottom }));
			}
		}
		for (const s of o.series) {
			root.append(svg("polyline", { class: "line " + s.class, points: path(s.points) }));
			for (const d of s.dots || []) root.append(svg("circle", { class: d.class, cx: x(d.x), cy: y(d.y), r: 4 }));
		}
		for (const m of o.marks || []) {
			const px = x(m.x), half = 3.3 * m.text.length + 4;
			root.append(svg("line", { class: "rule", x1: px, x2: px, y1: top, y2: height - bottom }),
				svg("circle", { class: "critical", cx: px, cy: y(m.y), r: 6 }),
				text(Math.min(Math.max(px, left + half), width - right - half), top - 6, m.text, { class: "strong halo", "text-anchor": "middle" }));
		}
		if (!o.stops) return;
		const read = figure.querySelector(".read");
		const cursor = svg("line", { class: "cursor", y1: top, y2: height - bottom, visibility: "hidden" });
		root.append(cursor);
		let at = -1;
		const show = i => {
			at = Math.max(0, Math.min(o.stops.length - 1, i));
			fill(cursor, { x1: x(o.stops[at]), x2: x(o.stops[at]), visibility: "visible" }, []);
			read.textContent = o.read(at);
		};
		root.setAttribute("tabindex", "0");
		root.setAttribute("aria-label", o.label + ". Arrow keys read values.");
		root.addEventListener("pointermove", e => {
			const box = root.getBoundingClientRect(), px = (e.clientX - box.left) / box.width * width;
			show(o.stops.reduce((best, s, i) => Math.abs(x(s) - px) < Math.abs(x(o.stops[best]) - px) ? i : best, 0));
		});
		root.addEventListener("keydown", e => {
			const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: o.stops.length - 1 }[e.key];
			if (to === undefined) return;
			e.preventDefault();
			show(to);
		});
		read.textContent = o.hint || "Point at the plot, or use the arrow keys, to read it.";
	}

	// bars draws a row of stacked parts for each policy. rows: [{name, parts: [{v, class,
	// title, text}], value, hatched}]; max: of the axis; rule: {v, text}.
	function bars(figure, o) {
		const row = 30, top = o.rule ? 30 : 8, bottom = 44, right = 16 + 6.4 * Math.max(...o.rows.map(r => (r.value || "").length));
		const height = top + row * o.rows.length + bottom;
		const [root, width] = canvas(figure, height, o.label);
		const left = 12 + 6.7 * Math.max(...o.rows.map(r => r.name.length));
		const x = v => left + v / o.max * (width - left - right);
		const id = figure.id + "-hatch";
		root.append(svg("defs", {}, svg("pattern", { id, width: 8, height: 8, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
			svg("line", { class: "hatch", x1: 0, x2: 0, y1: 0, y2: 8 }))));
		for (const v of steps(0, o.max, Math.max(2, Math.min(6, (width - left - right) / 60)))) {
			root.append(svg("line", { class: "grid", x1: x(v), x2: x(v), y1: top - 4, y2: height - bottom }),
				text(x(v), height - bottom + 17, o.tick(v), { "text-anchor": "middle" }));
		}
		root.append(text((left + width - right) / 2, height - 8, o.axis, { "text-anchor": "middle" }));
		o.rows.forEach((r, i) => {
			const y = top + i * row;
			root.append(text(left - 7, y + 18, r.name, { class: "name", "text-anchor": "end" }));
			let from = 0;
			for (const p of r.parts) {
				const w = x(from + p.v) - x(from);
				root.append(svg("rect", { class: "part " + p.class, x: x(from), y: y + 3, width: Math.max(0, w), height: row - 8 }, title(p.title)));
				from += p.v;
			}
			if (r.hatched) root.append(svg("rect", { fill: `url(#${id})`, x: x(0), y: y + 3, width: x(from) - x(0), height: row - 8, "pointer-events": "none" }));
			if (r.value) root.append(text(x(from) + 6, y + 18, r.value, { class: "value halo" }));
		});
		root.append(svg("line", { class: "axis", x1: left, x2: left, y1: top - 4, y2: height - bottom }));
		if (o.rule) {
			root.append(svg("line", { class: "rule", x1: x(o.rule.v), x2: x(o.rule.v), y1: top - 8, y2: height - bottom }),
				text(x(o.rule.v), 14, o.rule.text, { class: "strong", "text-anchor": x(o.rule.v) > width / 2 ? "end" : "middle" }));
		}
	}

	// All cases.

	let chosen = 0;

	function drawOverview() {
		const figure = $("overview");
		const all = policies.map((_, k) => cases.flatMap((c, i) => c.limit > 0 && !c.results[k].late ? [{ i, v: c.results[k].over }] : []));
		const values = all.flat().map(d => d.v);
		if (values.length === 0) return nothing(figure, "No case has a limit and a policy that did its work in time.");
		const row = 46, top = 12, bottom = 44, right = 14;
		const height = top + row * policies.length + bottom;
		const [root, width] = canvas(figure, height, "energy as a multiple of the limit, by policy: a dot for each case");
		const wide = width > 620;
		const left = 14 + 6.7 * Math.max(...policies.map(p => p.name.length), wide ? 26 : 0);
		// Who missed a few deadlines, less than counts as late, may be below the limit.
		const least = Math.min(1, ...values), most = Math.max(1.1, ...values);
		const x = v => left + (v - least) / (most - least) * (width - left - right - 6);
		for (const v of steps(least, most, Math.max(2, (width - left) / 80))) {
			root.append(svg("line", { class: "grid", x1: x(v), x2: x(v), y1: top, y2: height - bottom }),
				text(x(v), height - bottom + 17, digits(v) + "×", { "text-anchor": "middle" }));
		}
		root.append(svg("line", { class: "axis", x1: x(1), x2: x(1), y1: top, y2: height - bottom }),
			text((left + width - right) / 2, height - 8, "energy, multiple of the limit", { "text-anchor": "middle" }));
		policies.forEach((p, k) => {
			const y = top + k * row + row / 2, dots = all[k];
			const sorted = dots.map(d => d.v).sort((a, b) => a - b), n = sorted.length;
			const median = n ? (sorted[(n - 1) >> 1] + sorted[n >> 1]) / 2 : 0;
			const late = cases.filter(c => c.results[k].late).length;
			const notes = [...(n ? ["median " + times(median)] : []), ...(late ? ["late in " + late] : [])];
			root.append(text(left - 10, y - (notes.length ? 2 : -4), p.name, { class: "name", "text-anchor": "end" }));
			if (wide) root.append(text(left - 10, y + 13, notes.join(", "), { "text-anchor": "end" }));
			else if (n) root.append(text(left - 10, y + 13, times(median), { "text-anchor": "end" }));
			dots.forEach((d, j) => {
				// Spread by a sequence that fills evenly, for many are alike.
				const c = cases[d.i], dy = ((d.i * 0.618034) % 1 - 0.5) * (row - 18);
				const dot = svg("circle", { class: "dot " + look(p), cx: x(d.v), cy: y + dy, r: 4 },
					title(`${machines[c.machine].name}, ${c.load}: ${p.name} ${times(d.v)}`));
				dot.addEventListener("click", () => choose(d.i));
				root.append(dot);
				if (d.i === chosen) root.append(svg("circle", { class: "ring", cx: x(d.v), cy: y + dy, r: 7 }));
			});
			if (n) root.append(svg("line", { class: "median", x1: x(median), x2: x(median), y1: y - row / 2 + 5, y2: y + row / 2 - 5 }));
		});
	}

	// One case.

	const shown = new Set(policies.flatMap((p, k) => p.shown ? [k] : []));
	if (shown.size === 0) policies.forEach((_, k) => shown.add(k));

	function drawEnergy(c) {
		const max = Math.max(c.limit, ...c.results.map(r => r.energy)) || 1, [unit, scale] = joules(max);
		bars($("energy"), {
			label: "energy by policy", axis: "energy, " + unit, max, tick: v => digits(v * scale),
			rows: c.results.map((r, k) => ({
				name: policies[k].name, hatched: r.late,
				value: si(r.energy, "J") + (r.over > 0 ? ", " + times(r.over) : "") + (r.late ? " late" : ""),
				parts: [
					{ v: r.energy - r.base, class: "bar " + look(policies[k]), title: `${policies[k].name}: ${si(r.energy - r.base, "J")} for the work` },
					{ v: r.base, class: "bar base " + look(policies[k]), title: `${policies[k].name}: ${si(r.base, "J")} idle and shared` },
				],
			})),
			rule: c.limit > 0 ? { v: c.limit, text: "limit " + si(c.limit, "J") } : null,
		});
	}

	function drawCurve(c) {
		const figure = $("curve"), m = machines[c.machine], own = m.curve;
		const more = figure.querySelector(".more");
		more.textContent = "";
		if (!own) return nothing(figure, "This machine has no platform that prices its operating points.");
		const most = Math.max(...own.points.map(p => p.energy)) * 1.08 || 1;
		const [unit, scale] = joules(most);
		const mhz = own.points.map(p => p.mhz), wide = (mhz[mhz.length - 1] - mhz[0] || mhz[0]) * 0.04;
		const name = v => digits(v, 4) + " MHz", critical = own.points[own.critical];
		// The same cores with other power around them have other critical clocks.
		const others = machines.filter(o => o !== m && o.curve && o.curve.platform === own.platform && o.curve.points.length === own.points.length);
		more.textContent = `${own.work} of work on one core of ${own.platform}, and sleep for the rest of ${own.window}. ` +
			"Hollow: too slow for the platform's own window." +
			(others.length ? ` Critical on ${others.map(o => `${o.name}: ${name(o.curve.points[o.curve.critical].mhz)}`).join(", ")}.` : "");
		const floor = [[mhz[mhz.length - 1], 0], [mhz[0], 0]];
		lines(figure, {
			label: `energy by clock of ${m.name}, least at the critical ${name(critical.mhz)}`,
			x: { min: mhz[0] - wide, max: mhz[mhz.length - 1] + wide, label: "clock, MHz", ticks: mhz.map(v => [v, digits(v, 4)]) },
			y: { min: 0, max: most, label: "energy, " + unit, ticks: steps(0, most * scale, 5).map(v => [v / scale, digits(v)]) },
			areas: [
				{ class: "asleep", points: [...own.points.map(p => [p.mhz, p.energy]), ...floor] },
				{ class: "switching", points: [...own.points.map(p => [p.mhz, p.awake + p.switching]), ...floor] },
				{ class: "kept", points: [...own.points.map(p => [p.mhz, p.awake]), ...floor] },
			],
			series: [{ class: "curve", points: own.points.map(p => [p.mhz, p.energy]), dots: own.points.map(p => ({ x: p.mhz, y: p.energy, class: p.fast ? "fast" : "slow" })) }],
			marks: [{ x: critical.mhz, y: critical.energy, text: "critical: " + name(critical.mhz) }],
			stops: mhz,
			read: i => `${name(mhz[i])}: ${si(own.points[i].energy, "J")}, of it ${si(own.points[i].switching, "J")} switching, ${si(own.points[i].awake, "J")} awake` +
				(own.points[i].fast ? "" : "; too slow"),
		});
	}

	// drawCourse draws means over equal parts of the run.
	function drawCourse(figure, c, key, scale, label, y, format) {
		const n = c.parts, courses = c.results.map(r => course(r[key], n).map(v => v * scale));
		if (n === 0) return nothing(figure, "This run kept no samples.");
		const part = c.span / n;
		lines(figure, {
			label: `${label} over time`,
			x: { min: 0, max: c.span, label: "time, s", ticks: steps(0, c.span, 6).map(v => [v, digits(v, 4)]) }, y,
			series: policies.flatMap((p, k) => shown.has(k) ? [{
				class: look(p) + " " + dash(p), points: courses[k].flatMap((v, i) => [[i * part, v], [(i + 1) * part, v]]),
			}] : []).reverse(), // powerd, which is the first, on top
			stops: Array.from({ length: n }, (_, i) => (i + 0.5) * part),
			read: i => `${digits(i * part)}–${digits((i + 1) * part)} s: ` +
				policies.flatMap((p, k) => shown.has(k) && courses[k].length ? [`${p.name} ${format(courses[k][i])}`] : []).join(", "),
		});
	}

	function drawIdle(c) {
		const figure = $("idle"), states = machines[c.machine].states;
		const kinds = [["awake", "awake"], ...states.map((s, i) => [s, "i" + Math.min(3, Math.round(i * (states.length > 4 ? 3 / (states.length - 1) : 1)) + (states.length < 3 ? 1 : 0))])];
		figure.querySelector(".legend").replaceChildren(...kinds.map(([s, k]) => html("span", {}, html("i", { class: "swatch " + k }), s)));
		if (c.parts === 0) return nothing(figure, "This run kept no samples.");
		if (states.length === 0) return nothing(figure, "This machine has no idle states.");
		bars(figure, {
			label: "share of the cores' time awake and in each idle state, by policy", axis: "share of the cores' time, %",
			max: 1, tick: v => digits(100 * v),
			rows: c.results.map((r, k) => {
				const idle = r.idle || [], shares = [Math.max(0, 1 - idle.reduce((a, b) => a + b, 0)), ...idle];
				return { name: policies[k].name, parts: shares.map((v, i) => ({ v, class: kinds[i][1], title: `${policies[k].name}: ${kinds[i][0]} ${percent(v)}` })) };
			}),
		});
	}

	function drawLatency(c) {
		const figure = $("latency"), more = figure.querySelector(".more"), bounds = c.bounds || [];
		more.textContent = "";
		if (!c.results.some(r => r.latency)) return nothing(figure, "No container of this load bounds its response times.");
		more.textContent = "Of all containers that bound theirs, together; the bound is on each one's own p99.";
		// An axis of nines: 90, 99 and 99.9 % are as far apart. The slowest of all is at its end.
		const last = Math.max(...percentiles.filter(p => p < 100)), end = -Math.log10(1 - last / 100) + 0.5;
		const at = percentiles.map(p => p >= 100 ? end : -Math.log10(1 - p / 100));
		const drawn = c.results.flatMap((r, k) => shown.has(k) && r.latency ? r.latency.filter(v => v > 0) : []);
		const lo = Math.log10(Math.min(...drawn, ...bounds)) - 0.05, hi = Math.log10(Math.max(...drawn, ...bounds)) + 0.1;
		const ticks = [];
		for (let e = Math.floor(lo); e <= hi; e++) {
			for (const m of hi - lo > 2.5 ? [1] : [1, 2, 5]) {
				const v = e + Math.log10(m);
				if (v >= lo && v <= hi) ticks.push([v, si(m * 10 ** e, "s")]);
			}
		}
		const name = p => p >= 100 ? "max" : digits(p);
		lines(figure, {
			label: "response time by percentile",
			x: { min: 0, max: end, label: "percentile, %", ticks: percentiles.flatMap((p, i) => [50, 90, 99, 99.9, 100].includes(p) ? [[at[i], name(p)]] : []) },
			y: { min: lo, max: hi, label: "response time", ticks },
			rules: [...bounds.map(b => ({ y: Math.log10(b), text: `bound on p99: ${si(b, "s")}` })), { x: 2 }],
			series: policies.flatMap((p, k) => shown.has(k) && c.results[k].latency ? [{
				class: look(p) + " " + dash(p), points: c.results[k].latency.map((v, i) => [at[i], Math.log10(Math.max(v, 10 ** lo))]),
			}] : []).reverse(),
			stops: at,
			read: i => `${percentiles[i] >= 100 ? "slowest" : name(percentiles[i]) + " % within"}: ` +
				policies.flatMap((p, k) => shown.has(k) && c.results[k].latency ? [`${p.name} ${si(c.results[k].latency[i], "s")}`] : []).join(", "),
		});
	}

	function fillNumbers(c) {
		$("numbers").querySelector("tbody").replaceChildren(...c.results.map((r, k) => {
			const cells = [digits(r.energy, 4), digits(r.base, 4), digits(r.energy / c.span, 4), r.over > 0 ? times(r.over) : "–",
				r.due > 0 ? `${r.missed} of ${r.due}` : "–", r.p99 > 0 ? si(r.p99, "s") : "–", r.late ? "no" : "yes"];
			return html("tr", {}, html("th", { scope: "row" }, policies[k].name), ...cells.map(s => html("td", r.late ? { class: "late" } : {}, s)));
		}));
	}

	function drawLines() {
		const c = cases[chosen];
		drawCourse($("power"), c, "power", c.scale, "power",
			{ min: 0, max: c.scale || 1, label: "power, W", ticks: steps(0, c.scale || 1, 5).map(v => [v, digits(v)]) }, v => si(v, "W"));
		drawCourse($("speed"), c, "speed", 1, "frequency",
			{ min: 0, max: 1, label: "mean clock, % of the fastest", ticks: steps(0, 1, 5).map(v => [v, digits(100 * v)]) }, percent);
		drawLatency(c);
	}

	function drawCase() {
		const c = cases[chosen], m = machines[c.machine];
		$("chosen").textContent = `One case: ${c.load} on ${m.name}`;
		$("about").textContent = (c.about ? c.about[0].toUpperCase() + c.about.slice(1) + ". " : "") + (c.verdict ? `powerd against the best governor: ${c.verdict}.` : "");
		for (const e of document.querySelectorAll("#case .origin")) {
			e.textContent = `${c.kind}; seed ${c.seed}; ${m.name}; ${c.load}; ${digits(c.span, 4)} s on the machine's clock; powerd ${data.version}`;
		}
		$("curve").querySelector(".origin").textContent = `modelled; no seed; ${m.name}; powerd ${data.version}`;
		drawEnergy(c);
		drawCurve(c);
		drawLines();
		drawIdle(c);
		fillNumbers(c);
	}

	// Choosing.

	function choose(i, reveal) {
		chosen = i;
		const c = cases[i];
		$("machine").value = c.machine;
		$("load").replaceChildren(...cases.flatMap((o, k) => o.machine === c.machine ? [html("option", { value: k }, o.load)] : []));
		$("load").value = i;
		history.replaceState(null, "", "#case-" + i);
		drawOverview();
		drawCase();
		if (reveal) {
			$("case").scrollIntoView();
			$("case").focus({ preventScroll: true });
		}
	}

	function linked() {
		const [, i] = /^#case-(\d+)$/.exec(location.hash) || [];
		return i !== undefined && cases[i] ? +i : -1;
	}

	if (cases.length === 0) return;
	document.documentElement.classList.add("scripted"); // without, the places of the plots are hidden
	$("machine").append(...machines.map((m, i) => html("option", { value: i }, m.name)));
	$("machine").addEventListener("change", e => {
		const of = cases.flatMap((c, i) => c.machine === +e.target.value ? [i] : []);
		choose(of.find(i => cases[i].load === cases[chosen].load) ?? of[0]);
	});
	$("load").addEventListener("change", e => choose(+e.target.value));
	$("previous").addEventListener("click", () => choose((chosen + cases.length - 1) % cases.length));
	$("next").addEventListener("click", () => choose((chosen + 1) % cases.length));
	document.querySelector(".pick").addEventListener("submit", e => e.preventDefault());
	$("table").addEventListener("click", e => {
		const link = e.target.closest("a");
		if (!link) return;
		e.preventDefault(); // the case may be the one that is chosen already
		choose(+link.hash.slice("#case-".length), true);
	});
	addEventListener("hashchange", () => { if (linked() >= 0) choose(linked(), true); });

	$("lines").append(...policies.map((p, k) => {
		const box = html("input", { type: "checkbox" });
		box.checked = shown.has(k);
		box.addEventListener("change", () => {
			if (box.checked) shown.add(k); else shown.delete(k);
			drawLines();
		});
		return html("label", {}, box, svg("svg", { viewBox: "0 0 34 12", "aria-hidden": "true" },
			svg("line", { class: `line ${look(p)} ${dash(p)}`, x1: 0, x2: 34, y1: 6, y2: 6 })), p.name);
	}));

	let width = 0;
	new ResizeObserver(() => {
		if (document.body.clientWidth === width) return;
		width = document.body.clientWidth;
		drawOverview();
		drawCase();
	}).observe(document.body);

	choose(linked() >= 0 ? linked() : 0, linked() >= 0);
})();
