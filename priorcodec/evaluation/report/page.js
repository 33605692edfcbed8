"use strict";
// Legend chips hide curves; the viewer compares two versions of one image: slider, zoom, keyboard. No network, no library.
for (const chip of document.querySelectorAll(".legend button")) chip.onclick = () => {
  const on = chip.getAttribute("aria-pressed") !== "true";
  chip.setAttribute("aria-pressed", on);
  for (const g of chip.closest("section").querySelectorAll(`svg [data-codec="${CSS.escape(chip.dataset.codec)}"]`)) g.style.display = on ? "" : "none";
};
const data = JSON.parse(document.getElementById("data").textContent);
const find = (id) => document.getElementById(id);

function viewer() {
  const state = { image: 0, rate: 0, left: 0, right: data.images[0].rates[0].focus, cut: 0.5, zoom: 0 };
  const zooms = ["Fit", "100%", "200%", "400%"];
  const [box, win, stage, bar, range] = ["viewer", "window", "stage", "bar", "cut"].map(find);
  const [under, over] = stage.querySelectorAll("img");
  const image = () => data.images[state.image];
  const versions = () => image().rates[state.rate].versions;
  const digits = (v, k) => v === null ? "-" : k === "bytes" ? v.toLocaleString("en") : v.toFixed(data.digits[k] ?? 4);
  const name = (v) => v.title + (v.setting ? " (" + v.setting + ")" : "");
  const size = (v) => v.bytes === undefined ? "" : `, ${digits(v.bytes, "bytes")} bytes, ${digits(v.bpp, "bpp")} bpp`;

  function buttons(row, labels, pick, get) {
    row.replaceChildren(...labels.map((label, i) => Object.assign(document.createElement("button"), {
      type: "button", textContent: label, onclick: () => { pick(i); draw(); } })));
    [...row.children].forEach((b, i) => b.setAttribute("aria-pressed", i === get()));
  }
  function cell(text, tag = "td") { return Object.assign(document.createElement(tag), { textContent: text }); }
  function line(cells, on) {
    const tr = document.createElement("tr");
    tr.append(...cells); tr.className = on ? "on" : "";
    return tr;
  }
  // The divider runs over the image when it fits, over the window when it is larger.
  function track() {
    return state.zoom ? [0, win.clientWidth] : [stage.offsetLeft, stage.clientWidth];
  }
  function slide() {
    const [start, length] = track(), place = start + state.cut * length;
    const x = win.scrollLeft + place - stage.offsetLeft;
    over.style.clipPath = `inset(0 0 0 ${Math.max(0, Math.min(stage.clientWidth, x))}px)`;
    bar.style.left = place + "px";
    range.value = Math.round(state.cut * 1000);
  }
  function draw() {
    const p = image();
    state.rate = Math.min(state.rate, p.rates.length - 1);
    const list = versions(), keys = Object.keys(data.metrics);
    for (const side of ["left", "right"]) {
      state[side] = Math.min(state[side], list.length - 1);
      const select = find(side);
      select.replaceChildren(...list.map((v, i) => new Option(name(v), i, false, i === state[side])));
      find("tag-" + side).replaceChildren(name(list[state[side]]), Object.assign(document.createElement("span"), { textContent: size(list[state[side]]) }));
    }
    under.src = data.embedded[list[state.left].image]; under.alt = `${p.name}: ${name(list[state.left])}`;
    over.src = data.embedded[list[state.right].image]; over.alt = `${p.name}: ${name(list[state.right])}`;
    stage.style.aspectRatio = `${p.width} / ${p.height}`;
    const scale = [0, 1, 2, 4][state.zoom];
    stage.style.width = scale ? p.width * scale + "px" : `min(${win.clientWidth}px, ${Math.max(p.width, 1)}px, 82vh * ${p.width / p.height})`;
    box.classList.toggle("near", state.zoom > 1); box.classList.toggle("zoomed", state.zoom > 0);
    buttons(find("images"), data.images.map((q) => q.name), (i) => { state.image = i; }, () => state.image);
    buttons(find("rates"), p.rates.map((r) => r.label), (i) => { state.rate = i; }, () => state.rate);
    buttons(find("zooms"), zooms, zoom, () => state.zoom);
    find("scores").replaceChildren(
      line([cell("version", "th"), cell("bytes", "th"), cell("bpp", "th"), ...keys.map((k) => cell(data.metrics[k], "th"))]),
      ...list.filter((v) => v.bytes !== undefined).map((v) => line(
        [cell(name(v)), cell(digits(v.bytes, "bytes")), cell(digits(v.bpp, "bpp")), ...keys.map((k) => cell(digits(v[k], k)))],
        v === list[state.left] || v === list[state.right])));
    slide();
  }
  function zoom(to) {
    const [cx, cy] = [(win.scrollLeft + win.clientWidth / 2) / win.scrollWidth, (win.scrollTop + win.clientHeight / 2) / win.scrollHeight];
    state.zoom = to; draw();
    win.scrollTo(cx * win.scrollWidth - win.clientWidth / 2, cy * win.scrollHeight - win.clientHeight / 2);
    slide();
  }
  function move(by) { state.cut = Math.max(0, Math.min(1, state.cut + by)); slide(); }

  function to(x) {
    const [start, length] = track();
    move((x - win.getBoundingClientRect().left - start) / length - state.cut);
  }

  let drag = null;  // "cut" moves the divider, "pan" the zoomed image
  box.addEventListener("pointerdown", (e) => {
    if (e.target !== bar && state.zoom > 0 && e.pointerType !== "mouse") return;
    drag = e.target === bar || state.zoom === 0 ? "cut" : "pan";
    if (e.target === bar || e.pointerType === "mouse") { e.preventDefault(); box.setPointerCapture(e.pointerId); }
    if (drag === "cut") to(e.clientX);
  });
  box.addEventListener("pointermove", (e) => {
    if (drag === "cut") to(e.clientX);
    if (drag === "pan") win.scrollBy(-e.movementX, -e.movementY);
  });
  for (const end of ["pointerup", "pointercancel"]) box.addEventListener(end, () => { drag = null; });
  win.addEventListener("scroll", slide); window.addEventListener("resize", draw);
  for (const image of [under, over]) image.addEventListener("load", slide);
  range.oninput = () => { state.cut = range.value / 1000; slide(); };
  for (const side of ["left", "right"]) find(side).onchange = (e) => { state[side] = +e.target.value; draw(); };
  find("swap").onclick = () => { [state.left, state.right] = [state.right, state.left]; draw(); };
  document.addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey || ["SELECT", "INPUT"].includes(e.target.tagName)) return;
    const turn = (n, by) => (n + by + data.images.length) % data.images.length;
    const act = { ArrowLeft: () => move(-0.02), ArrowRight: () => move(0.02), n: () => { state.image = turn(state.image, 1); draw(); },
      p: () => { state.image = turn(state.image, -1); draw(); }, r: () => { state.rate = (state.rate + 1) % image().rates.length; draw(); },
      z: () => zoom((state.zoom + 1) % zooms.length), x: find("swap").onclick }[e.key];
    const index = e.code.startsWith("Digit") ? +e.code.slice(5) - 1 : -1;
    if (index >= 0 && index < versions().length) { state[e.shiftKey ? "left" : "right"] = index; draw(); }
    else if (act) act(); else return;
    e.preventDefault();
  });
  draw();
}
if (data.images.length) viewer();
