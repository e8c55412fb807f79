/**
 * The view of a finding: a prompt and an output in their own layout, shaded by what did what.
 *
 * `mount(element, payload, {requestSpan})` puts it into an element; notebook, report and web app use this same file. The
 * payload is made by payload.py. All text is untrusted: it enters the page as text nodes and nothing else.
 */

const VERSION = 1;
const STEPS = 12; // shades of each sign
const LISTED = 25; // rows of the ranked list before more are asked for
const MOST_LISTED = 1000;
const ARCS = 20;
const BATCH = 1000; // units that are coloured within a frame, besides those in sight
const LONG = 1.3; // times the height of the window: a prompt longer than that gets a minimap

// The same numbers as in scale.py, which says what they mean.
const NEGLIGIBLE = 0.01;
const PERCENTILE = 0.99;
const FLOORS = { nats: 0.01, probability: 0.001, logits: 0.01, "log-odds": 0.01 };
const WEAK = 0.02;

/* Numbers */

/** Packed numbers as a Float32Array of rows * columns; null for null. */
async function unpack(packed) {
	if (!packed) return null;
	const bytes = Uint8Array.from(atob(packed.data), (character) => character.charCodeAt(0));
	const inflated = new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate")));
	const buffer = await inflated.arrayBuffer();
	const [rows, columns] = packed.shape;
	const raw = new { float32: Float32Array, float16: Float16Array, int8: Int8Array }[packed.type](buffer);
	if (raw.length !== rows * columns) throw new Error(`expected ${rows * columns} numbers, got ${raw.length}`);
	if (!packed.scale) return raw;
	const values = new Float32Array(raw.length);
	for (let row = 0, at = 0; row < rows; row++) {
		const scale = packed.scale[row];
		for (const end = at + columns; at < end; at++) values[at] = raw[at] * scale;
	}
	return values;
}

/** Where the colours end, and whether there is too little to colour; `fit` in scale.py says why. */
function fitScale(scores, unit, anywhere, errors) {
	const sizes = Float64Array.from(scores, Math.abs);
	let strongest = 0;
	for (const size of sizes) if (size > strongest) strongest = size;
	if (strongest === 0) return { limit: 0, strongest, weak: true, why: "every score is 0" };
	const relevant = sizes.filter((size) => size >= NEGLIGIBLE * strongest).sort();
	const limit = relevant[Math.ceil(PERCENTILE * relevant.length) - 1];
	let why = "";
	const floor = FLOORS[unit] ?? 0;
	if (strongest < floor) why = `nothing moves it by ${floor} ${unit}`;
	else if (strongest < WEAK * anywhere) why = `no score is ${WEAK * 100}% of the strongest for other outputs`;
	else if (errors && sizes.every((size, i) => size < 2 * errors[i])) why = "no score is twice its standard error";
	return { limit, strongest, weak: why !== "", why };
}

/** A number in words: three decimals, or powers of ten where all numbers beside it are small. */
function told(value, largest, signed = true) {
	const digits = largest >= 0.1 || largest === 0 ? Math.abs(value).toFixed(3) : Math.abs(value).toExponential(2);
	if (value < 0) return `−${digits}`;
	return signed ? `+${digits}` : digits;
}

/** Sorts by the size of a number, the largest first. */
const bySize = (number) => (one, other) => Math.abs(number(other)) - Math.abs(number(one));
const percent = (share) => `${share > 0 && share < 0.001 ? "<0.1" : (100 * share).toFixed(1)}%`;

/* Text */

// What is not to be seen; joiners and variants within emoji and scripts that join stay, anywhere else they would only hide.
const HIDDEN = /(?<![^\x00-\x7f])[\ufe0e\ufe0f\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f])|(?![\n\t\ufe0e\ufe0f\u200c\u200d])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\p{DI}]/gu;

/** The text with a visible mark for every character that cannot be seen, or that turns the direction of writing. */
function visible(text) {
	return text.replace(HIDDEN, (character) => {
		const code = character.codePointAt(0);
		if (code < 0x20) return String.fromCodePoint(0x2400 + code);
		return code === 0x7f ? "␡" : `<U+${code.toString(16).toUpperCase().padStart(4, "0")}>`;
	});
}

/** The same on one line, cut if long. */
function brief(text, most = 80) {
	const line = visible(text).replaceAll("\n", "⏎").replaceAll("\t", "⇥");
	const characters = Array.from(line.slice(0, 2 * most));
	return characters.length > most ? `${characters.slice(0, most - 1).join("")}…` : line;
}

/** An element with attributes and children: a string becomes a text node, and what is false or null nothing. */
function make(tag, attributes = {}, ...children) {
	const element = document.createElement(tag);
	for (const [name, value] of Object.entries(attributes)) {
		if (value === true) element.setAttribute(name, "");
		else if (value !== false && value !== null) element.setAttribute(name, value);
	}
	element.append(...children.filter(Boolean));
	return element;
}

const plural = (name, count) => (count === 1 ? name : name + (name.endsWith("ch") ? "es" : "s"));
const spoken = (name) => visible(name.replaceAll("_", " "));

/** The names, repeated ones told apart by their place: "apples (2 of 2)". */
function numbered(names) {
	const places = Map.groupBy(names.keys(), (at) => names[at]);
	return names.map((name, at) => {
		const all = places.get(name);
		return all.length > 1 ? `${name} (${all.indexOf(at) + 1} of ${all.length})` : name;
	});
}

/* What is divided */

/**
 * A text in parts, and coarser divisions of these parts into groups.
 *
 * `starts` and `ends` are its parts' places. `division(name)` gives `of`, the group of each part; parts outside of all
 * groups are groups by themselves.
 */
class Divided {
	constructor({ text, starts, ends, labels, special, tokens, granularity, levels, blocks }) {
		Object.assign(this, { text, starts, ends, labels, tokens, granularity, blocks });
		this.count = starts.length;
		this.special = new Uint8Array(this.count);
		for (const part of special) this.special[part] = 1;
		this.levels = { [granularity]: null, ...levels };
		this.divisions = new Map();
	}

	division(name) {
		if (!this.divisions.has(name)) this.divisions.set(name, this.divide(this.levels[name]));
		return this.divisions.get(name);
	}

	divide(owners) {
		const grouped = Map.groupBy(this.starts.keys(), (part) => (owners?.[part] >= 0 ? owners[part] : ~part));
		const members = [...grouped.values()];
		const of = new Int32Array(this.count);
		members.forEach((parts, group) => parts.forEach((part) => (of[part] = group)));
		const special = Uint8Array.from(members, (parts) => (parts.every((part) => this.special[part]) ? 1 : 0));
		return { of, members, special, count: members.length, names: null };
	}

	/** What every group is called; repeated names are numbered. */
	names(division) {
		division.names ??= numbered(
			division.members.map((parts) => {
				const [label] = new Set(parts.map((part) => this.labels[part])).size === 1 ? [this.labels[parts[0]]] : [];
				const own = this.text.slice(this.starts[parts[0]], this.ends[parts[parts.length - 1]]);
				return brief(label ?? (own.trim() || own), 200) || "(nothing)";
			}),
		);
		return division.names;
	}

	/**
	 * The numbers of a division's groups, given those of all parts; special parts count only where a group has no other.
	 * Of "max" it is the number of the part that is strongest by `sizes`.
	 */
	gather(division, numbers, reduce, sizes = numbers) {
		return Float64Array.from(division.members, (members, group) => {
			const parts = division.special[group] ? members : members.filter((part) => !this.special[part]);
			if (reduce === "max") return numbers[parts.reduce((best, part) => (Math.abs(sizes[part]) > Math.abs(sizes[best]) ? part : best))];
			const sum = parts.reduce((total, part) => total + numbers[part], 0);
			return reduce === "mean" ? sum / parts.reduce((total, part) => total + this.tokens[part], 0) : sum;
		});
	}
}

/** One method's numbers for a prompt and its output. */
class Layer {
	static async open(raw) {
		return new Layer(raw, await Promise.all([raw.scores, raw.errors, raw.output_scores].map(unpack)));
	}

	constructor(raw, [scores, errors, earlier]) {
		Object.assign(this, raw, { scores, errors, earlier });
		[this.rows, this.columns] = raw.scores.shape;
		this.given = new Map(); // what `requestSpan` gave, by outputs
	}

	/** Numbers of every column, summed over the rows of these outputs. */
	sum(numbers, columns, outputs) {
		const total = new Float64Array(columns);
		if (!numbers) return total;
		for (const output of this.whole ? [0] : outputs) {
			const at = output * columns;
			for (let column = 0; column < columns; column++) total[column] += numbers[at + column];
		}
		return total;
	}

	/** Numbers of every row, summed over these columns. */
	across(numbers, columns) {
		const total = new Float64Array(this.rows);
		for (let row = 0; row < this.rows; row++) {
			for (const column of columns) total[row] += numbers[row * this.columns + column];
		}
		return total;
	}

	/** The strongest score that a single output gives an ordinary unit. */
	anywhere(special) {
		if (this.strongest === undefined) {
			this.strongest = 0;
			for (let at = 0, column = 0; at < this.scores.length; at++, column = column + 1 === this.columns ? 0 : column + 1) {
				const size = Math.abs(this.scores[at]);
				if (size > this.strongest && !special[column]) this.strongest = size;
			}
		}
		return this.strongest;
	}
}

/* A text on the page */

/**
 * A divided text as a list box of its groups: shaded, hovered, clicked, dragged over, walked through by keys.
 *
 * `on.hover(group | null)` and `on.pick(first, last)` tell what a person does, in groups of the present division.
 */
class TextBox {
	constructor(divided, label, on) {
		Object.assign(this, { divided, on });
		const listbox = { role: "listbox", "aria-multiselectable": "true", "aria-label": label };
		this.element = make("div", { class: "text", ...(divided.count > 0 ? listbox : {}) });
		this.anchor = this.focus = null;
		this.dragging = false;
		const group = (event) => {
			const piece = event.target instanceof Element ? event.target.closest("[data-group]") : null;
			return piece && this.element.contains(piece) ? Number(piece.dataset.group) : null;
		};
		this.element.addEventListener("pointerdown", (event) => {
			const at = group(event);
			if (at === null || event.button !== 0 || event.pointerType === "touch") return; // a finger may only scroll
			event.preventDefault(); // no native selection of text
			this.dragging = true;
			addEventListener("pointerup", () => ((this.dragging = false), this.on.pick(this.anchor, this.last)), { once: true });
			if (!event.shiftKey || this.anchor === null) this.anchor = at;
			this.moveTo(at);
			this.on.pick(this.anchor, (this.last = at));
		});
		this.element.addEventListener("pointerover", (event) => {
			const at = group(event);
			if (!this.dragging) this.on.hover(at);
			else if (at !== null) this.on.pick(this.anchor, (this.last = at));
		});
		this.element.addEventListener("pointerleave", () => this.on.hover(null));
		this.element.addEventListener("click", (event) => {
			const at = group(event);
			if (event.pointerType === "touch" && at !== null) this.on.pick((this.anchor = at), at);
		});
		this.element.addEventListener("focusin", (event) => {
			const at = group(event);
			if (at !== null && !this.dragging) this.on.hover(at);
		});
		this.element.addEventListener("focusout", () => this.on.hover(null));
		this.element.addEventListener("keydown", (event) => this.key(event));
	}

	/** Builds the pieces anew for a division. */
	show(division) {
		const same = (group) => (group === null ? null : division.of[this.division.members[group][0]]);
		[this.anchor, this.focus] = [same(this.anchor), same(this.focus)];
		this.division = division;
		this.pieces = Array.from({ length: division.count }, () => []);
		this.shades = Array(division.count).fill("");
		this.waiting = new Set(); // groups whose shade is not on the page yet
		this.marks = new Map(); // from a mark's name to the groups that have it
		this.tops = null;
		const { text, blocks } = this.divided;
		const root = document.createDocumentFragment();
		let reached = 0;
		let unit = 0;
		for (const block of [...blocks, null]) {
			const until = block ? block.start : text.length;
			// Labels of units without characters belong to what follows them, unless all is said.
			unit = this.block(root, null, reached, until, unit, block === null);
			if (block) unit = this.block(root, block.role, block.start, block.end, unit, false);
			reached = block ? block.end : until;
		}
		this.element.replaceChildren(root);
		this.moveTo(this.focus ?? 0, false);
	}

	/** A message, or what stands outside of messages; returns the first unit that comes after it. */
	block(root, role, start, end, unit, last) {
		const { starts, ends, text, count } = this.divided;
		const first = unit;
		while (unit < count && (starts[unit] < end || (starts[unit] === end && ends[unit] === end && last))) unit++;
		if (start >= end && first === unit) return unit;
		const element = make("div", { class: role !== null ? "message" : this.divided.blocks.length ? "outside" : null });
		if (role !== null) {
			element.setAttribute("role", "group");
			element.setAttribute("aria-label", brief(role));
			element.append(make("div", { class: "role", "aria-hidden": "true" }, brief(role)));
		}
		this.line = null;
		this.into = element;
		let at = start;
		for (let from = first; from < unit; ) {
			const group = this.division.of[from];
			let to = from + 1;
			while (to < unit && this.division.of[to] === group && starts[to] < ends[to]) to++;
			const stop = Math.min(ends[to - 1], end);
			this.write(text.slice(at, Math.max(at, starts[from])), null);
			this.run(text.slice(Math.max(at, starts[from]), stop), group, from);
			at = Math.max(at, stop);
			from = to;
		}
		this.write(text.slice(at, end), null);
		root.append(element);
		return unit;
	}

	/** Consecutive units of one group: white space around them is not shaded, unless there is nothing else. */
	run(own, group, unit) {
		const label = this.divided.labels[unit];
		if (own === "") this.write(label === undefined ? "◌" : brief(label), group, "label");
		else if (own.trim() === "") this.write(own.replaceAll("\n", "⏎\n").replaceAll("\t", "⇥").replaceAll(" ", "␣"), group, "blank");
		else {
			const lead = own.length - own.trimStart().length;
			const end = own.trimEnd().length;
			this.write(own.slice(0, lead), null);
			this.write(own.slice(lead, end), group);
			this.write(own.slice(end), null);
		}
	}

	/** Text at the end of what is written, every line of it in an element of its own direction. */
	write(text, group, kind = "") {
		// The end of a message is the end of a line already.
		if (this.line === null && group === null && this.into.matches(".outside") && text.startsWith("\n")) text = text.slice(1);
		if (text === "") return;
		for (const [index, line] of text.split("\n").entries()) {
			if (index > 0 || this.line === null) {
				if (this.line && !this.line.hasChildNodes()) this.line.append(make("br"));
				this.line = make("div", { class: "line", dir: "auto" });
				this.into.append(this.line);
			}
			if (line === "") continue;
			if (group === null) this.line.append(visible(line));
			else this.line.append(this.piece(visible(line), group, kind));
		}
	}

	piece(text, group, kind) {
		const pieces = this.pieces[group];
		const rest = [this.division.special[group] ? "special" : "", kind].filter(Boolean).join(" ");
		const span = make("span", { "data-group": group, dir: kind ? "ltr" : null }, text);
		// A group's first piece stands for it; those on further lines belong to it.
		if (pieces.length === 0) span.setAttribute("role", "option");
		else {
			if (pieces.length === 1) pieces[0].setAttribute("aria-label", brief(this.divided.names(this.division)[group], 300));
			span.setAttribute("aria-hidden", "true");
		}
		span.className = span.rest = rest ? `unit ${rest}` : "unit";
		pieces.push(span);
		return span;
	}

	/** Colours every group: `steps` are from -STEPS to STEPS, beyond that by one where clipped. */
	shade(steps, prefix) {
		for (let group = 0; group < steps.length; group++) {
			const size = Math.abs(steps[group]);
			const hue = steps[group] > 0 ? "for" : "against";
			const shade = size === 0 ? "" : ` ${hue} ${prefix}${Math.min(size, STEPS)}${size > STEPS ? " clipped" : ""}`;
			if (shade === this.shades[group]) continue;
			this.shades[group] = shade;
			this.waiting.add(group);
		}
		this.dressNear();
	}

	/** Dresses what waits and is in sight, or close to it, at once; the rest in the frames that follow. */
	dressNear() {
		if (this.waiting.size > BATCH) {
			const tops = this.places();
			const { scrollTop, clientHeight } = this.element;
			for (const group of this.waiting) if (Math.abs(tops[group] - scrollTop) < 2 * clientHeight) this.dress(group);
		}
		let left = BATCH;
		for (const group of this.waiting) {
			if (left-- === 0) break;
			this.dress(group);
		}
		if (this.waiting.size > 0) this.next ??= requestAnimationFrame(() => ((this.next = undefined), this.dressNear()));
	}

	/** Puts a mark on these groups and on no others. */
	mark(name, groups) {
		const before = this.marks.get(name) ?? new Set();
		const now = new Set(groups);
		this.marks.set(name, now);
		for (const group of new Set([...before, ...now])) {
			if (before.has(group) === now.has(group)) continue;
			this.dress(group);
			if (name === "selected") this.pieces[group][0]?.setAttribute("aria-selected", String(now.has(group)));
		}
	}

	dress(group) {
		this.waiting.delete(group);
		let names = this.shades[group];
		for (const [mark, groups] of this.marks) if (groups.has(group)) names += ` ${mark}`;
		for (const piece of this.pieces[group]) piece.className = piece.rest + names;
	}

	/** Makes a group the one that the tabulator key leads to, and puts the focus there where wanted. */
	moveTo(group, focus = true) {
		const before = this.focus === null ? null : this.pieces[this.focus][0];
		const next = this.pieces[group]?.[0];
		if (!next) return;
		if (before && before !== next) before.removeAttribute("tabindex");
		next.setAttribute("tabindex", "0");
		this.focus = group;
		if (focus) next.focus({ preventScroll: true });
	}

	key(event) {
		if (this.focus === null || event.ctrlKey || event.metaKey || event.altKey) return;
		const here = this.pieces[this.focus][0];
		const back = getComputedStyle(here.parentElement).direction === "rtl" ? "ArrowRight" : "ArrowLeft";
		const last = this.division.count - 1;
		if (event.key === "Enter" || event.key === " ") {
			event.preventDefault();
			if (!event.shiftKey) this.anchor = null;
			this.on.pick((this.anchor ??= this.focus), this.focus);
			return;
		}
		const step = event.key === back ? -1 : 1;
		if (!/^(Arrow|Home$|End$)/.test(event.key)) return;
		event.preventDefault();
		const beside = this.focus + step;
		const to = { ArrowLeft: beside, ArrowRight: beside, ArrowUp: this.beside(-1), ArrowDown: this.beside(1), Home: 0, End: last };
		const next = Math.max(0, Math.min(last, to[event.key]));
		if (event.shiftKey) this.anchor ??= this.focus;
		this.moveTo(next);
		if (event.shiftKey) this.on.pick(this.anchor, next);
		this.pieces[next][0]?.scrollIntoView({ block: "nearest" });
	}

	/** The group above (-1) or below (1) the focus, nearest to it across. */
	beside(direction) {
		const from = this.pieces[this.focus][0].getBoundingClientRect();
		const middle = (from.left + from.right) / 2;
		let best = this.focus;
		let row = null;
		let distance = Infinity;
		for (let group = this.focus + direction; group >= 0 && group < this.division.count; group += direction) {
			const place = this.pieces[group][0]?.getBoundingClientRect();
			if (!place || (direction > 0 ? place.top < from.bottom - 2 : place.bottom > from.top + 2)) continue;
			row ??= place.top;
			if (Math.abs(place.top - row) > 2) break;
			const off = Math.abs((place.left + place.right) / 2 - middle);
			if (off < distance) [best, distance] = [group, off];
		}
		return best;
	}

	/** About where each group begins, in pixels from the top of the text; measured once, and by lines only. */
	places() {
		if (this.tops) return this.tops;
		this.tops = new Float32Array(this.division.count);
		const top = this.element.getBoundingClientRect().top - this.element.scrollTop;
		for (const line of this.element.querySelectorAll(".line")) {
			const place = line.getBoundingClientRect();
			const pieces = line.querySelectorAll("[role=option]");
			pieces.forEach((piece, index) => {
				this.tops[piece.dataset.group] = place.top - top + (place.height * index) / pieces.length;
			});
		}
		return this.tops;
	}
}

/* A prompt and its output */

const NOTHING = { prompt: null, output: null }; // is asked of either side

/**
 * One side of the view: a prompt, shaded by what made the model write the outputs that are asked about, and an output,
 * shaded by its probability, or by what the units of the prompt that are asked about did for each of its tokens.
 */
class Panel {
	constructor(view, place, raw, layers) {
		Object.assign(this, { view, place, raw, layers });
		const chosen = view.payload.selection[place];
		const { texts, levels } = raw.outputs;
		const labels = { ...raw.labels, ...raw.names };
		this.prompt = new Divided({ ...raw, text: raw.prompt, labels });
		const ends = [];
		for (const text of texts) ends.push((ends.at(-1) ?? 0) + text.length);
		const starts = ends.map((end, index) => end - texts[index].length);
		const tokens = texts.map(() => 1);
		const own = { text: texts.join(""), starts, ends, labels: {}, special: [], tokens, granularity: "token" };
		this.output = new Divided({ ...own, levels, blocks: [] });
		this.all = texts.map((_, index) => index);
		this.locked = { ...NOTHING, output: chosen.length > 0 ? chosen : null };
		this.hovered = NOTHING;
		this.pointed = null;
		this.boxes = {};
		const titled = (name) => visible(raw.title ? `${raw.title} ${name}` : name);
		for (const side of ["prompt", "output"]) {
			const hover = (group) => this.hover(side, group);
			const pick = (first, last) => this.pick(side, first, last);
			this.boxes[side] = new TextBox(this[side], titled(side), { hover, pick });
		}
		this.legend = make("div", { class: "legend" });
		this.notes = make("p", { class: "notes" });
		this.map = make("canvas", { class: "map", "aria-hidden": "true" });
		this.edited = make("div", { class: "text edited", tabindex: "0", hidden: true, "aria-label": "edited prompt", role: "region" });
		this.shades = make("small");
		this.readout = make("p", { class: "readout" });
		this.arcs = picture("svg", { class: "arcs", "aria-hidden": "true", width: 0, height: 0 });
		this.element = make(
			"section",
			{ class: "panel", "aria-label": titled("prompt and output") },
			make("h2", {}, titled("prompt")),
			layers.length > 0 && this.legend,
			make("div", { class: "frame" }, this.boxes.prompt.element, this.edited, this.map),
			make("h2", {}, titled("output"), " ", this.shades),
			this.boxes.output.element,
			layers.length > 0 && this.readout,
			this.notes,
		);
		const scroll = (event) => {
			const box = this.boxes.prompt.element;
			const { top, height } = this.map.getBoundingClientRect();
			const at = ((event.clientY - top) / height) * box.scrollHeight;
			// To a unit, not to a height: those of lines that were never in sight are guesses.
			const group = this.boxes.prompt.places().findLastIndex((place) => place <= at);
			this.boxes.prompt.pieces[group]?.[0]?.scrollIntoView({ block: "center" });
		};
		this.map.addEventListener("pointerdown", (event) => {
			this.map.setPointerCapture(event.pointerId);
			scroll(event);
		});
		this.map.addEventListener("pointermove", (event) => event.buttons & 1 && scroll(event));
		this.boxes.prompt.element.addEventListener("scroll", () => {
			this.boxes.prompt.tops = null; // what came into sight now has a height of its own
			this.drawMap();
		});
	}

	get layer() {
		return this.layers[this.view.state.layer];
	}

	/** The granularity that a side is shown at. */
	shown(side) {
		const name = this.view.state[side];
		return name in this[side].levels ? name : this[side].granularity;
	}

	/** The groups of a side at that granularity. */
	division(side) {
		return this[side].division(this.shown(side));
	}

	/** Builds both texts anew where another granularity was chosen. */
	build() {
		for (const side of ["prompt", "output"]) {
			if (this.boxes[side].division !== this.division(side)) this.boxes[side].show(this.division(side));
		}
		this.boxes.prompt.element.append(this.arcs);
		const verified = this.place === 0 ? (this.view.payload.verification?.strongest ?? []) : [];
		this.boxes.prompt.mark("verified", verified.map((unit) => this.division("prompt").of[unit]));
	}

	/** The groups that these parts stand in. */
	groups(side, parts) {
		const { of } = this.division(side);
		return [...new Set(parts.map((part) => of[part]))];
	}

	/** These parts and all others of their groups. */
	widen(side, parts) {
		return parts && this.groups(side, parts).flatMap((group) => this.division(side).members[group]);
	}

	/** What is asked of a side: what is hovered, else what was chosen; null for nothing in particular. */
	asked(side) {
		return this.widen(side, this.hovered[side] ?? this.locked[side]);
	}

	hover(side, group) {
		this.hovered = NOTHING;
		this.pointed = group === null ? null : { side, group };
		if (group !== null) this.hovered = { ...NOTHING, [side]: this.division(side).members[group] };
		if (side === "prompt") this.view.partner(this.place, this.hovered.prompt ?? []);
		this.view.later();
	}

	pick(side, first, last) {
		const groups = this.division(side).members.slice(Math.min(first, last), Math.max(first, last) + 1);
		this.locked[side] = groups.flat();
		this.view.failed = null;
		if (side === "output") this.locked.prompt = null;
		this.hovered = NOTHING;
		this.view.later(!this.boxes[side].dragging);
	}

	clear() {
		this.locked = { ...NOTHING };
		this.hovered = NOTHING;
		this.boxes.prompt.anchor = this.boxes.output.anchor = null;
	}

	/** What made the model write the outputs that are asked about: a number for each group of the prompt, and a scale. */
	async causes() {
		const { layer, view } = this;
		if (!layer) return null;
		let asked = layer.whole ? this.widen("output", this.locked.output) : this.asked("output");
		if (asked?.length === this.all.length) asked = null;
		const outputs = asked ?? this.all;
		let [scores, errors] = [layer.scores, layer.errors].map((numbers) => numbers && layer.sum(numbers, layer.columns, outputs));
		if (layer.whole && asked) {
			const given = !this.boxes.output.dragging && (await view.request(this.place, layer, asked));
			if (given) ({ scores, errors = null } = given);
			else asked = null;
		}
		const earlier = layer.earlier && asked && !layer.whole ? layer.sum(layer.earlier, this.all.length, outputs) : null;
		return { ...this.weigh("prompt", scores, errors, this.division("prompt")), earlier, asked };
	}

	/** What the units of the prompt that are asked about did for each group of the output; null where that is unknown. */
	effects() {
		const { layer } = this;
		const asked = this.asked("prompt");
		if (!asked || !layer || layer.whole) return null;
		return { ...this.weigh("output", layer.across(layer.scores, asked), null, this.division("output")), asked };
	}

	weigh(side, numbers, deviations, division) {
		const { special, reduce } = this.view.state;
		const way = side === "prompt" ? reduce : "sum";
		const scores = this[side].gather(division, numbers, way);
		const errors = deviations && this[side].gather(division, deviations, way, numbers);
		const counted = [...scores.keys()].filter((group) => special || !division.special[group]);
		const anywhere = way === "mean" ? 0 : this.layer.anywhere(this.prompt.special);
		const [own, off] = [scores, errors].map((all) => all && counted.map((group) => all[group]));
		return { side, division, scores, errors, counted, scale: fitScale(own, this.layer.unit, anywhere, off) };
	}

	/** Colours both texts: the prompt on a scale that ends at `limit`, the output on that of single tokens. */
	paint(causes, limit) {
		const { state } = this.view;
		const effects = this.effects();
		const shades = (weighed, numbers, end) => {
			const steps = new Int8Array(numbers.length);
			if (end > 0 && !weighed.scale.weak) for (const group of weighed.counted) steps[group] = step(numbers[group], end, state.threshold);
			return steps;
		};
		let [output, prefix] = [this.improbable(), "q"];
		const most = state.lock ?? (this.layer ? this.layer.anywhere(this.prompt.special) : 0);
		if (effects) [output, prefix] = [shades(effects, effects.scores, most), "s"];
		else if (causes?.earlier && causes.asked) {
			const before = this.weigh("output", causes.earlier, null, this.division("output"));
			[output, prefix] = [shades({ ...causes, counted: before.counted }, before.scores, limit), "s"];
		}
		const prompt = causes ? shades(causes, causes.scores, limit) : new Int8Array(this.division("prompt").count);
		this.boxes.prompt.shade(prompt, "s");
		this.boxes.output.shade(output, prefix);
		for (const side of ["prompt", "output"]) this.boxes[side].mark("selected", this.groups(side, this.asked(side) ?? []));
		this.painted = { causes, effects, limit, prompt, most };
		this.shades.textContent = this.shadesOf(effects, prefix, most);
		this.drawLegend(causes, limit);
		this.tell();
		this.drawMap();
		this.drawArcs();
	}

	/** What the colours of the output mean. */
	shadesOf(effects, prefix, most) {
		if (!this.layer) return "";
		if (prefix === "q") return "grey: the less probable, the darker";
		if (!effects) return "earlier tokens by what they did, on the prompt's scale";
		const unit = visible(this.layer.unit);
		return `strongest colour ${told(most, most, false)} ${unit}: what ${this.named("prompt", effects.asked)} did for each`;
	}

	/** Shades of the output by improbability. */
	improbable() {
		const { logprobs } = this.raw.outputs;
		return Int8Array.from(this.division("output").members, (parts) => {
			const mean = parts.reduce((sum, part) => sum + (logprobs[part] ?? (logprobs.length && -Infinity)), 0) / parts.length;
			return Math.round((1 - Math.exp(mean)) * STEPS);
		});
	}

	/** The scale with numbers at its ends, and what it does not show. */
	drawLegend(causes, limit) {
		if (!causes) return;
		const { scale, scores, counted } = causes;
		const { state } = this.view;
		const { signed } = this.layer;
		const bar = make("span", { class: "bar", "aria-hidden": "true" });
		for (let at = signed ? -STEPS : 0; at <= STEPS; at++) {
			bar.append(make("span", { class: at === 0 ? "none" : `${at > 0 ? "for" : "against"} s${Math.abs(at)}` }));
		}
		const beyond = counted.filter((group) => Math.abs(scores[group]) > limit * 1.0005).length;
		const own = this.prompt.granularity;
		const shown = this.shown("prompt");
		const ways = { sum: "sum", mean: "mean per token", max: "strongest" };
		const notes = [];
		if (shown !== own) notes.push(`each ${spoken(shown)}: ${ways[state.reduce]} of its ${plural(spoken(own), 2)}`);
		else if (state.reduce === "mean") notes.push("mean per token");
		if (state.lock !== null) notes.push("scale locked");
		if (beyond && !scale.weak) notes.push(`${beyond} ${plural(spoken(shown), beyond)} beyond the scale, with double or wavy lines`);
		if (state.threshold > 0) notes.push(`below ${told(limit * state.threshold, limit, false)} not coloured`);
		if (this.layer.whole && !causes.asked) notes.push("of the output as a whole");
		if (this.view.failed) notes.push(this.view.failed.why);
		const unit = `${visible(this.layer.unit)}${signed ? "" : ", without sign"}`;
		this.legend.replaceChildren(
			make("span", {}, signed ? `−${told(limit, limit, false)} against` : "0"),
			bar,
			make("span", {}, `${told(limit, limit, signed)}${signed ? " for" : ""} `, make("b", {}, unit)),
		);
		this.notes.replaceChildren(notes.join("; "));
		this.legend.classList.toggle("weak", scale.weak);
		if (!scale.weak) return;
		const size = `the strongest is ${told(scale.strongest, scale.strongest, false)} ${visible(this.layer.unit)}`;
		const why = scale.strongest === 0 ? scale.why : `${scale.why}; ${size}`;
		this.notes.prepend(make("strong", {}, `Weak signal, nothing is coloured: ${why}`), " ");
	}

	/** A line about what is pointed at: its score, or its probability and what the model could have written instead. */
	tell() {
		if (!this.pointed) {
			const hint = "Point at a part to see its numbers. Click or drag to choose it, Escape to let go.";
			this.readout.replaceChildren(make("span", { class: "dim" }, hint));
			return;
		}
		const { side, group } = this.pointed;
		const division = this.division(side);
		const members = division.members[group];
		const { causes, effects, limit, most } = this.painted;
		const [weighed, end] = side === "prompt" ? [causes, limit] : [effects, most];
		const words = [side === "prompt" ? brief(this.raw.roles[this.raw.role[members[0]]]) : this.probability(members)];
		if (weighed) {
			const error = weighed.errors ? ` ± ${told(weighed.errors[group], end, false)}` : "";
			words.push(`${told(weighed.scores[group], end, this.layer.signed)}${error} ${visible(this.layer.unit)}`);
		}
		this.readout.replaceChildren(make("b", {}, brief(this[side].names(division)[group])), ` ${words.join(" · ")}`);
	}

	/** How probable tokens of the output are, and what the likeliest others in the place of one were. */
	probability(members) {
		const { logprobs, alternatives, texts } = this.raw.outputs;
		if (!logprobs.length) return "probability not told";
		const sum = members.reduce((total, part) => total + (logprobs[part] ?? -Infinity), 0);
		const others = members.length === 1 ? (alternatives[members[0]] ?? []).filter(([text]) => text !== texts[members[0]]) : [];
		const instead = others.map(([text, logprob]) => `‘${brief(text)}’ ${percent(Math.exp(logprob))}`);
		return `probability ${percent(Math.exp(sum))} (${told(sum, 1)} nats)${instead.length ? `, instead: ${instead.join(", ")}` : ""}`;
	}

	/** The minimap: where in a long prompt the colours are, and which part of it is in sight. */
	drawMap() {
		const box = this.boxes.prompt.element;
		const isLong = box.scrollHeight > LONG * box.clientHeight;
		if (this.map.hidden === isLong) {
			this.map.hidden = !isLong;
			this.boxes.prompt.tops = null; // another width
		}
		if (!isLong || !this.painted) return;
		const [width, height] = [this.map.clientWidth, this.map.clientHeight];
		if (this.map.width !== width || this.map.height !== height) [this.map.width, this.map.height] = [width, height];
		const context = this.map.getContext("2d");
		const style = getComputedStyle(this.map);
		const total = box.scrollHeight;
		const strongest = new Int8Array(height);
		const tops = this.boxes.prompt.places();
		for (let group = 0; group < tops.length; group++) {
			const at = Math.min(height - 1, Math.max(0, Math.floor((tops[group] / total) * height)));
			if (Math.abs(this.painted.prompt[group]) > Math.abs(strongest[at])) strongest[at] = this.painted.prompt[group];
		}
		context.clearRect(0, 0, width, height);
		strongest.forEach((size, at) => {
			if (size === 0) return;
			// For from the left, against from the right: the sign shows without colour.
			const length = Math.max(3, (Math.min(STEPS, Math.abs(size)) / STEPS) * width);
			context.fillStyle = size > 0 ? style.borderLeftColor : style.borderRightColor;
			context.fillRect(size > 0 ? 0 : width - length, at - 1, length, 3);
		});
		context.strokeStyle = style.color;
		context.strokeRect(1, (box.scrollTop / total) * height, width - 2, Math.max(4, (box.clientHeight / total) * height));
	}

	/** The groups that do most together, with a number for the outputs that are asked about. */
	pairs() {
		const { layer } = this;
		if (!this.view.state.pairs || !layer) return [];
		const rows = layer.whole ? [0] : (this.asked("output") ?? this.all);
		const { of } = this.division("prompt");
		return layer.pairs
			.map(([first, second, values]) => ({ first: of[first], second: of[second], value: rows.reduce((sum, row) => sum + values[row], 0) }))
			.filter(({ first, second, value }) => value !== 0 && first !== second)
			.sort(bySize(({ value }) => value))
			.slice(0, ARCS);
	}

	/** Arcs between them. */
	drawArcs() {
		const { element, pieces } = this.boxes.prompt;
		const pairs = this.pairs().filter(({ first, second }) => pieces[first].length && pieces[second].length);
		const frame = element.getBoundingClientRect();
		const top = (group) => {
			const place = pieces[group][0].getBoundingClientRect();
			return [(place.left + place.right) / 2 - frame.left + element.scrollLeft, place.top - frame.top + element.scrollTop];
		};
		this.arcs.replaceChildren(
			...pairs.map(({ first, second, value }) => {
				const [from, to] = [top(first), top(second)];
				const lift = Math.min(from[1], to[1]) - 10 - Math.min(40, Math.abs(from[0] - to[0]) / 6);
				const width = 1 + (3 * Math.abs(value)) / Math.abs(pairs[0].value);
				const d = `M${from} C${from[0]},${lift} ${to[0]},${lift} ${to}`;
				return picture("path", { d, class: value > 0 ? "for" : "against", "stroke-width": width });
			}),
		);
		this.arcs.setAttribute("width", pairs.length && element.clientWidth);
		this.arcs.setAttribute("height", pairs.length && element.scrollHeight);
	}

	/** Shows the prompt as an edit changed it; null for the prompt itself. */
	showEdit(diff) {
		const tags = { 0: "span", 1: "ins", [-1]: "del" };
		this.edited.replaceChildren(...(diff ?? []).map(([text, kind]) => make(tags[kind], {}, visible(text))));
		this.edited.hidden = !diff;
		this.boxes.prompt.element.hidden = Boolean(diff);
	}

	/** What some parts of a side are called, in quotes. */
	named(side, parts) {
		const groups = this.groups(side, parts);
		const names = this[side].names(this.division(side));
		if (groups.length === 1 && side === "prompt") return `‘${brief(names[groups[0]], 60)}’`;
		const { text, starts, ends } = this[side];
		return `‘${brief(text.slice(starts[parts[0]], ends[parts.at(-1)]).trim() || names[groups[0]], 60)}’`;
	}
}

/** The shade of a score on a scale that ends at `limit`: from -STEPS to STEPS, beyond that by one where it is clipped. */
function step(score, limit, threshold) {
	const size = Math.abs(score) / limit;
	if (size < Math.max(threshold, 0.5 / STEPS)) return 0;
	return Math.sign(score) * (size > 1.0005 ? STEPS + 1 : Math.max(1, Math.min(STEPS, Math.round(size * STEPS))));
}

/** An element of a drawing. */
function picture(tag, attributes) {
	const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
	for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
	return element;
}

/* The whole view */

/** All panels, the controls above them and the ranked list below, on one scale. */
class View {
	constructor(element, payload, requestSpan) {
		Object.assign(this, { element, payload, requestSpan });
		const granularity = payload.panels[0]?.granularity ?? "token";
		this.state = { layer: 0, prompt: granularity, output: "token", reduce: "sum", special: false, lock: null, threshold: 0, pairs: false };
		this.all = false; // whether the ranked list holds weak scores too
		this.turn = 0;
		this.ranked = [];
	}

	async open() {
		const { payload } = this;
		const layers = await Promise.all(payload.panels.map((raw) => Promise.all(raw.layers.map(Layer.open))));
		this.panels = payload.panels.map((raw, place) => new Panel(this, place, raw, layers[place]));
		this.list = make("div", { class: "list" });
		this.live = make("p", { class: "live", role: "status" });
		this.remarks = make("ul", { class: "remarks" });
		this.about = make("footer");
		const hasScores = this.panels[0].layers.length > 0;
		const { verification, experiment } = payload;
		const several = this.panels.length > 1;
		const texts = make("div", { class: `panels${several ? " several" : ""}` }, ...this.panels.map(({ element }) => element));
		const lists = make("div", { class: "lists" }, experiment && this.variants(experiment), hasScores && this.list, this.remarks);
		this.root = make(
			"div",
			{ class: "attribution" },
			hasScores && this.toolbar(),
			verification && this.verdict(verification),
			make("div", { class: `body${several ? "" : " beside"}` }, texts, lists),
			this.actions(),
			this.about,
			this.live,
		);
		this.root.addEventListener("keydown", (event) => this.key(event));
		this.root.addEventListener("copy", (event) => this.copy(event));
		this.sizes = new ResizeObserver(() => {
			for (const panel of this.panels) panel.boxes.prompt.tops = null;
			for (const panel of this.panels) {
				panel.drawMap();
				panel.drawArcs();
			}
		});
		for (const panel of this.panels) this.sizes.observe(panel.boxes.prompt.element);
		this.footer();
		this.element.replaceChildren(this.root);
		await this.rebuild();
		return { close: () => this.close() };
	}

	close() {
		this.turn = Infinity;
		this.sizes.disconnect();
		this.root.remove();
	}

	/** Scores of some outputs that were not computed beforehand; null where they cannot be had. */
	async request(panel, layer, outputs) {
		const key = outputs.join();
		if (!this.requestSpan || this.failed?.key === key) return null;
		if (!layer.given.has(key)) layer.given.set(key, this.requestSpan({ panel, layer: Number(this.state.layer), outputs }));
		this.root.setAttribute("aria-busy", "true");
		try {
			return await layer.given.get(key);
		} catch (error) {
			layer.given.delete(key);
			this.failed = { key, why: `not computed: ${brief(String(error))}` }; // until it is chosen again
			return null;
		} finally {
			this.root.removeAttribute("aria-busy");
		}
	}

	/** Paints anew before the next frame; `choice` where a person chose something, which is then said aloud. */
	later(choice = false) {
		this.choice ||= choice;
		this.frame ??= requestAnimationFrame(() => {
			this.frame = undefined;
			this.refresh();
		});
	}

	async rebuild() {
		for (const panel of this.panels) panel.build();
		this.find(this.search?.value ?? "");
		this.visited = null;
		await this.refresh();
	}

	async refresh() {
		const turn = ++this.turn;
		const causes = await Promise.all(this.panels.map((panel) => panel.causes()));
		if (turn !== this.turn) return;
		const together = !this.payload.comparison?.share;
		const most = Math.max(0, ...causes.map((each) => each?.scale.limit ?? 0));
		this.panels.forEach((panel, place) => {
			panel.paint(causes[place], this.state.lock ?? (together ? most : (causes[place]?.scale.limit ?? 0)));
		});
		this.rank();
		if (this.choice) this.say();
		this.choice = false;
	}

	/* Controls */

	toolbar() {
		const { state } = this;
		const change = (name, apply = () => this.refresh()) => (value) => {
			state[name] = value;
			return apply();
		};
		const panel = this.panels[0];
		const methods = panel.layers.map((layer, index) => [index, `${visible(layer.method)} (${visible(layer.target)})`]);
		const levels = (side) => Object.keys(panel[side].levels).map((name) => [name, spoken(name)]);
		const ways = [["sum", "sum"], ["mean", "mean per token"], ["max", "strongest"]];
		const hasSpecial = this.panels.some(({ prompt }) => prompt.special.includes(1));
		const hasPairs = this.panels.some(({ layers }) => layers.some((layer) => layer.pairs.length));
		const threshold = make("input", { type: "range", min: 0, max: 100, value: 0, "aria-label": "threshold" });
		threshold.addEventListener("input", () => change("threshold")(Number(threshold.value) / 100));
		this.search = make("input", { type: "search", placeholder: "find in prompt", "aria-label": "find in prompt" });
		this.search.addEventListener("input", () => this.find(this.search.value));
		this.search.addEventListener("keydown", (event) => event.key === "Enter" && this.step("found", event.shiftKey ? -1 : 1));
		this.count = make("span", { class: "count", role: "status" });
		this.lock = tick("lock scale", (on) => change("lock")(on ? panel.painted.limit : null));
		return make(
			"div",
			{ class: "toolbar", role: "group", "aria-label": "what is shown" },
			methods.length > 1 && choice("method", methods, change("layer", () => this.changeLayer())),
			choice("prompt by", levels("prompt"), change("prompt", () => this.rebuild())),
			choice("as", ways, change("reduce")),
			choice("output by", levels("output"), change("output", () => this.rebuild())),
			!this.payload.comparison?.share && this.lock,
			hasSpecial && tick("special tokens in the scale", change("special")),
			hasPairs && tick("pairs as arcs", change("pairs")),
			make("label", {}, "hide below ", threshold),
			make("span", {}, this.search, this.count),
			button("previous hit", () => this.step("hits", -1), "p"),
			button("next hit", () => this.step("hits", 1), "n"),
			button("whole output", () => this.clear(), "Escape"),
		);
	}

	changeLayer() {
		this.state.lock = null;
		this.lock.firstChild.checked = false;
		this.footer();
		return this.rebuild();
	}

	clear() {
		for (const panel of this.panels) panel.clear();
		this.later(true);
	}

	key(event) {
		if (event.key === "Escape") {
			if (event.target === this.search && this.search.value) return;
			this.clear();
		}
		const isTyped = event.target.matches("input, select") || event.ctrlKey || event.metaKey || event.altKey;
		if (isTyped || !this.search) return;
		if (event.key === "n") this.step("hits", 1);
		else if (event.key === "p") this.step("hits", -1);
		else if (event.key === "/") {
			event.preventDefault();
			this.search.focus();
		}
	}

	/** Copies the text of what was chosen, where the browser itself has nothing selected. */
	copy(event) {
		const panel = this.panels.find(({ locked }) => locked.prompt || locked.output);
		if (!panel || !getSelection().isCollapsed || event.target.matches("input")) return;
		const side = panel.locked.prompt ? "prompt" : "output";
		const parts = panel.widen(side, panel.locked[side]);
		event.clipboardData.setData("text/plain", panel[side].text.slice(panel[side].starts[parts[0]], panel[side].ends[parts.at(-1)]));
		event.preventDefault();
	}

	/** Marks what has the place of these units in the other prompt. */
	partner(place, units) {
		const other = this.panels[1 - place];
		const pairs = this.payload.comparison?.pairs.filter((pair) => units.includes(pair[place]) && pair[1 - place] !== null);
		if (pairs) other.boxes.prompt.mark("partner", other.groups("prompt", pairs.map((pair) => pair[1 - place])));
	}

	/** Marks every place of a text in the prompts, whatever its case. */
	find(sought) {
		let count = 0;
		for (const panel of this.panels) {
			const { text, starts, ends } = panel.prompt;
			const { of } = panel.division("prompt");
			// A pattern finds letters of either case where they stand, which a text in lower case may have moved.
			const pattern = new RegExp(sought.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&"), "giu");
			const places = sought ? Array.from(text.matchAll(pattern), ({ index }) => index) : [];
			const found = new Set();
			let unit = 0;
			for (const at of places) {
				while (unit < starts.length && ends[unit] <= at) unit++;
				for (let next = unit; next < starts.length && starts[next] < at + sought.length; next++) found.add(of[next]);
			}
			panel.found = [...found];
			panel.boxes.prompt.mark("found", panel.found);
			count += places.length;
		}
		if (this.count) this.count.textContent = sought ? ` ${count} ${plural("place", count)}` : "";
	}

	/** Goes to the next or previous hit, or to the next or previous place of what is sought. */
	step(name, direction) {
		const places = this.panels.flatMap((panel, place) => {
			const groups = name === "found" ? panel.found : [...panel.painted.prompt.keys()].filter((group) => panel.painted.prompt[group]);
			return groups.map((group) => ({ panel, place, group }));
		});
		if (places.length === 0) return;
		const from = this.visited ?? { place: 0, group: -1 };
		const after = ({ place, group }) => place - from.place || group - from.group;
		const next =
			direction > 0
				? (places.find((each) => after(each) > 0) ?? places[0])
				: (places.findLast((each) => after(each) < 0) ?? places.at(-1));
		this.go(next.panel, next.group, name !== "found");
	}

	go(panel, group, focus = true) {
		this.showVariant?.(0); // not the edited prompt, in which units have no place
		const box = panel.boxes.prompt;
		this.visited = { place: panel.place, group };
		box.mark("visited", [group]);
		box.moveTo(group, focus);
		const still = matchMedia("(prefers-reduced-motion: reduce)").matches || box.division.count > 2000;
		box.pieces[group][0]?.scrollIntoView({ block: "center", behavior: still ? "auto" : "smooth" });
	}

	/* The ranked list */

	rank() {
		if (this.payload.comparison) return this.rankPairs(this.payload.comparison);
		const [panel] = this.panels;
		if (!panel.layer) return;
		const { causes, limit } = panel.painted;
		const effects = panel.locked.prompt && panel.effects();
		const weighed = effects || causes;
		const { scores, errors, counted, division, side } = weighed;
		const order = counted.toSorted(bySize((group) => scores[group]));
		const total = order.reduce((sum, group) => sum + Math.abs(scores[group]), 0);
		const names = panel[side].names(division);
		const about = effects ? `what ${panel.named("prompt", effects.asked)} did for each part of the output` : this.aboutCauses(panel, causes);
		const { signed, unit } = panel.layer;
		let cumulative = 0;
		this.ranked = order.map((group, index) => {
			const share = total > 0 ? Math.abs(scores[group]) / total : 0;
			cumulative += share;
			const role = side === "prompt" ? panel.raw.roles[panel.raw.role[division.members[group][0]]] : "output";
			return { rank: index + 1, name: names[group], role, score: scores[group], error: errors?.[group], share, cumulative };
		});
		const largest = Math.abs(this.ranked[0]?.score ?? 0);
		const strong = Math.max(effects ? 0 : limit * this.state.threshold, this.all ? 0 : NEGLIGIBLE * largest);
		const others = this.ranked.filter(({ score }) => score !== 0);
		const shown = others.filter(({ score }) => Math.abs(score) >= strong).slice(0, this.all ? MOST_LISTED : LISTED);
		const roles = new Set(this.ranked.map(({ role }) => role));
		const rows = shown.map((row) => {
			const number = told(row.score, largest, signed);
			const meter = make("span", { class: `meter ${row.score > 0 ? "for" : "against"}` });
			meter.style.width = `${(100 * Math.abs(row.score)) / largest}%`;
			const holder = make("span", { class: "holder", "aria-hidden": "true" }, meter);
			if (row.error !== undefined) {
				const whisker = make("span", { class: "whisker" });
				const place = (side, at) => (whisker.style[side] = `${100 * Math.max(0, Math.min(1, at / largest))}%`);
				place("left", Math.abs(row.score) - row.error);
				place("right", largest - Math.abs(row.score) - row.error);
				holder.append(whisker);
			}
			const jump = side === "prompt" ? button(row.name, () => this.go(panel, order[row.rank - 1])) : make("span", {}, row.name);
			return [
				String(row.rank),
				jump,
				...(roles.size > 1 ? [visible(row.role)] : []),
				row.error === undefined ? number : `${number} ± ${told(row.error, largest, false)}`,
				holder,
				percent(row.share),
				percent(row.cumulative),
			];
		});
		const isSum = panel.shown(side) !== panel.prompt.granularity || ((causes.asked ?? panel.all).length > 1 && !panel.layer.whole);
		const heads = ["#", spoken(panel.shown(side)), ...(roles.size > 1 ? ["role"] : [])];
		heads.push(`${visible(unit)}${errors ? ` ± standard error${isSum ? ", at most" : ""}` : ""}`, "", "share", "cumulative");
		this.drawTable(`Strongest for ${about}`.replace("Strongest for what", "What"), heads, rows, others.length);
		const pairs = panel.pairs();
		if (pairs.length === 0) return;
		const cells = pairs.map(({ first, second, value }) => [...[first, second].map((at) => panel.prompt.names(panel.division("prompt"))[at]), told(value, largest)]);
		this.list.append(table("Pairs that only work together (+) or replace one another (−)", ["first", "second", visible(unit)], cells));
	}

	aboutCauses(panel, causes) {
		return causes.asked ? panel.named("output", causes.asked) : "the whole output";
	}

	/** The units of two prompts that have each other's place, by how far apart their scores are. */
	rankPairs({ pairs, share, unit, agreement }) {
		const scores = this.panels.map((panel) => {
			const { layer, prompt } = panel;
			const own = layer.sum(layer.scores, layer.columns, panel.asked("output") ?? panel.all);
			const strongest = own.reduce((most, score, at) => (prompt.special[at] ? most : Math.max(most, Math.abs(score))), 0);
			return share && strongest > 0 ? own.map((score) => score / strongest) : own;
		});
		const names = this.panels.map(({ prompt }) => prompt.names(prompt.division(prompt.granularity)));
		this.ranked = pairs
			.filter(([first, second]) => !(first === null ? this.panels[1].prompt.special[second] : this.panels[0].prompt.special[first]))
			.map(([first, second, kind]) => {
				const [one, other] = [first, second].map((at, place) => (at === null ? null : scores[place][at]));
				const places = [first, second];
				const named = { first: names[0][first], second: names[1][second] };
				return { ...named, kind, score_first: one, score_second: other, difference: (other ?? 0) - (one ?? 0), places };
			})
			.sort(bySize(({ difference }) => difference));
		const largest = Math.max(0, ...this.ranked.flatMap((row) => [row.score_first, row.score_second].map(Math.abs)));
		const others = this.ranked.filter(({ difference }) => difference !== 0);
		const strong = largest * Math.max(this.state.threshold, this.all ? 0 : NEGLIGIBLE);
		const shown = others.filter(({ difference }) => Math.abs(difference) >= strong).slice(0, this.all ? MOST_LISTED : LISTED);
		const place = (at, side) => {
			if (at === null) return make("span", { class: "dim" }, "–");
			const panel = this.panels[side];
			return button(names[side][at], () => this.go(panel, panel.division("prompt").of[at]));
		};
		const rows = shown.map(({ places, score_first, score_second, difference, kind }, index) => {
			const numbers = [score_first, score_second, difference].map((score) => (score === null ? "–" : told(score, largest)));
			return [String(index + 1), ...places.map(place), ...numbers, kind === "same" ? "" : kind];
		});
		const heads = ["#", "first", "second", `first, ${visible(unit)}`, `second, ${visible(unit)}`, "difference", ""];
		const alike = agreement === null ? "" : ` (rank correlation of the outputs first asked about: ${told(agreement, 1)})`;
		this.drawTable(`Largest differences${alike}`, heads, rows, others.length);
	}

	drawTable(caption, heads, rows, count) {
		this.caption = caption;
		const more = count - rows.length;
		const region = { class: "scroll", tabindex: "0", role: "region", "aria-label": "ranked list" };
		const holder = make("div", region, table(caption, heads, rows));
		const hadFocus = this.list.contains(document.activeElement);
		this.list.replaceChildren(holder);
		if (hadFocus) holder.focus({ preventScroll: true });
		if (more > 0) {
			const further = button("show them", () => {
				this.all = true;
				this.rank();
			});
			this.list.append(make("p", { class: "dim" }, `and ${more} weaker `, !this.all && further));
		}
		if (count === 0) this.list.append(make("p", {}, "Nothing to list: every score is 0."));
	}

	saveTable() {
		const fields = Object.keys(this.ranked[0] ?? {}).filter((name) => name !== "places");
		// A spreadsheet would run a cell that begins like a formula.
		const safe = (value) => (typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? `'${value}` : (value ?? ""));
		const quoted = (value) => `"${String(safe(value)).replaceAll('"', '""')}"`;
		const lines = [fields, ...this.ranked.map((row) => fields.map((field) => row[field]))];
		save("attribution.csv", "text/csv", lines.map((line) => line.map(quoted).join(",")).join("\r\n"));
	}

	/** Says aloud what was chosen, and what stands out. */
	say() {
		if (this.ranked.length === 0) return;
		const weak = this.panels.map(({ painted }) => painted.causes?.scale).find((scale) => scale?.weak);
		const strongest = this.ranked.slice(0, 3).map((row) => `${brief(row.name ?? row.first ?? row.second, 40)} ${told(row.score ?? row.difference, 1)}`);
		this.live.textContent = `${this.caption}: ${weak ? `weak signal, ${weak.why}` : strongest.join(", ")}`;
	}

	/* What experiments found */

	verdict({ verdict, caption, heads, rows, remarks }) {
		const cells = rows.map((row) => row.map(visible));
		const notes = remarks.map((remark) => make("p", { class: "dim" }, visible(remark)));
		const said = make("p", {}, make("strong", {}, visible(verdict)));
		return make("section", { class: "verdict", "aria-label": "verification" }, said, table(visible(caption), heads.map(visible), cells), ...notes);
	}

	/** Edits and what the model answers then; each can be shown in the prompt. */
	variants({ heads, answer, value, variants, remarks }) {
		const before = { edit: "the prompt as it was", output: answer, change: value, changed: true, diff: null };
		const all = [before, ...variants];
		const show = (index) => {
			buttons.forEach((each, at) => each.setAttribute("aria-pressed", String(at === index)));
			this.panels[0].showEdit(all[index].diff);
			this.live.textContent = `Shown: ${brief(all[index].edit)}`;
		};
		this.showVariant = show;
		const buttons = all.map(({ edit }, index) => button(brief(edit, 200), () => show(index)));
		buttons[0].setAttribute("aria-pressed", "true");
		const rows = all.map(({ output, change, changed }, index) => {
			const said = changed ? brief(output.trim(), 1000) || "(nothing)" : "the same";
			return [buttons[index], make("span", { class: index > 0 && changed ? "changed" : null }, said), change];
		});
		const notes = remarks.map((remark) => make("p", { class: "dim" }, visible(remark)));
		const caption = "What the model answers after each edit; choose one to see it in the prompt";
		return make("section", { class: "variants", "aria-label": "edits" }, table(caption, heads.map((head) => brief(head)), rows), ...notes);
	}

	/** What can be taken away, and the theme. */
	actions() {
		const themes = [["", "system"], ["light", "light"], ["dark", "dark"]];
		return make(
			"p",
			{ class: "actions" },
			this.search && button("save list as CSV", () => this.saveTable()),
			button("save JSON", () => save("attribution.json", "application/json", JSON.stringify(this.payload))),
			choice("theme", themes, (theme) => (this.root.dataset.theme = theme)),
		);
	}

	/** Where the numbers come from, and what the method said about them. */
	footer() {
		const layers = this.panels.map(({ layer }) => layer).filter(Boolean);
		const remarks = layers.flatMap((layer) => layer.remarks);
		this.remarks.replaceChildren(...remarks.map(([text, warns]) => make("li", { class: warns ? "warning" : null }, visible(text))));
		this.remarks.hidden = remarks.length === 0;
		const known = [...layers.map(({ provenance }) => provenance), this.payload.experiment?.provenance ?? []];
		const entry = ([label, value]) => make("div", {}, make("dt", {}, visible(label)), make("dd", {}, brief(String(value), 400)));
		this.about.replaceChildren(...known.filter((all) => all.length).map((all) => make("dl", {}, ...all.map(entry))));
	}
}

/** A table; numbers among its cells stand at the right. */
function table(caption, heads, rows) {
	const number = /^[+−<]?[\d.–]/;
	const cell = (content) => make("td", { class: typeof content === "string" && number.test(content) ? "number" : null }, content);
	const head = (title) => (title ? make("th", { scope: "col" }, title) : make("td"));
	return make(
		"table",
		{},
		make("caption", {}, caption),
		make("thead", {}, make("tr", {}, ...heads.map(head))),
		make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map(cell)))),
	);
}

/** A labelled choice; `apply` gets the chosen value. */
function choice(label, options, apply) {
	const select = make("select", {}, ...options.map(([value, text]) => make("option", { value }, text)));
	select.addEventListener("change", () => apply(select.value));
	return make("label", {}, `${label} `, select);
}

/** A box to tick; `apply` gets whether it is. */
function tick(label, apply) {
	const box = make("input", { type: "checkbox" });
	box.addEventListener("change", () => apply(box.checked));
	return make("label", {}, box, ` ${label}`);
}

function button(label, apply, key = null) {
	const element = make("button", { type: "button", title: key && `key: ${key}` }, label);
	element.addEventListener("click", apply);
	return element;
}

/** Hands a person a file. */
function save(name, type, content) {
	const address = URL.createObjectURL(new Blob([content], { type }));
	make("a", { href: address, download: name }).click();
	setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/**
 * Shows a payload within an element, whose content it replaces.
 *
 * `requestSpan({panel, layer, outputs})` may be given where scores of parts of the output can be computed on demand; it
 * returns a promise of `{scores, errors}`, a number for every unit. Returns a promise of `{close}`.
 */
export async function mount(element, payload, { requestSpan = null } = {}) {
	if (payload?.format !== "attribution-view") throw new Error("expected a payload of this view");
	if (payload.version > VERSION) throw new Error(`expected a payload of version ${VERSION} at most, got ${payload.version}`);
	return new View(element, payload, requestSpan).open();
}
