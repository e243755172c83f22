// The canvas of widgets.py, run by gradio with element, props, trigger and watch. Python puts a picture into
// props.value; what is painted goes back there as a layer, and the event "input" tells of it.
const LONGEST = 512; // pixels of the layer's longer side
const stage = element.querySelector(".stage");
const picture = element.querySelector(".picture");
const strokes = element.querySelector(".strokes");
const cursor = element.querySelector(".cursor");
const size = element.querySelector("input[type=range]");
const pen = strokes.getContext("2d", { willReadFrequently: true });
const colors = element.querySelector(".canvas").dataset.colors.split(",");
let color = colors[0];
let erases = false;
let last = null; // where the stroke is, in pixels of the layer
let grid = 1; // cells a side
let cell = 0; // where the keyboard is

for (const [number, one] of colors.entries()) {
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.color = one;
  button.style.setProperty("--color", one);
  button.textContent = colors.length > 1 ? String(number + 1) : "Brush";
  button.setAttribute("aria-label", colors.length > 1 ? `Brush, colour ${number + 1}` : "Brush");
  element.querySelector(".colors").append(button);
}

function show(value) {
  if (value?.picture === undefined) return;
  picture.src = value.picture;
  picture.alt = value.alt;
  picture.classList.toggle("pixels", value.pixels);
  const scale = LONGEST / Math.max(value.width, value.height);
  strokes.width = Math.max(1, Math.round(value.width * scale)); // also wipes it
  strokes.height = Math.max(1, Math.round(value.height * scale));
  stage.style.aspectRatio = `${value.width} / ${value.height}`;
  stage.style.maxWidth = `calc(70vh * ${value.width} / ${value.height})`;
  stage.classList.add("ready");
  [grid, cell, last] = [value.grid, 0, null];
  placeCursor();
  props.value = { layer: "" }; // the picture need not travel back
}

function tell() {
  const { data } = pen.getImageData(0, 0, strokes.width, strokes.height);
  const painted = data.some((value, i) => i % 4 === 3 && value > 0);
  props.value = { layer: painted ? strokes.toDataURL("image/png") : "" };
  trigger("input");
}

function press() {
  for (const button of element.querySelectorAll("[data-color]")) {
    button.setAttribute("aria-pressed", String(!erases && button.dataset.color === color));
  }
  element.querySelector("[data-tool=erase]").setAttribute("aria-pressed", String(erases));
}

function ready() {
  pen.globalCompositeOperation = erases ? "destination-out" : "source-over";
  pen.strokeStyle = pen.fillStyle = color;
  pen.lineCap = pen.lineJoin = "round";
  pen.lineWidth = Number(size.value);
}

function at(event) {
  const box = strokes.getBoundingClientRect();
  const x = ((event.clientX - box.left) / box.width) * strokes.width;
  return [x, ((event.clientY - box.top) / box.height) * strokes.height];
}

function strokeTo(point) {
  ready();
  pen.beginPath();
  pen.moveTo(...last);
  pen.lineTo(...point);
  pen.stroke();
  last = point;
}

function end() {
  if (last === null) return;
  last = null;
  tell();
}

strokes.addEventListener("pointerdown", (event) => {
  if (!stage.classList.contains("ready") || event.button !== 0) return;
  event.preventDefault();
  strokes.setPointerCapture(event.pointerId);
  last = at(event);
  strokeTo([last[0] + 0.01, last[1]]); // a click is a dot
});
strokes.addEventListener("pointermove", (event) => {
  if (last !== null) strokeTo(at(event));
});
strokes.addEventListener("pointerup", end);
strokes.addEventListener("pointercancel", end);

function placeCursor() {
  cursor.style.left = `${((cell % grid) * 100) / grid}%`;
  cursor.style.top = `${(Math.floor(cell / grid) * 100) / grid}%`;
  cursor.style.width = cursor.style.height = `${100 / grid}%`;
}

function paintCell() {
  const [width, height] = [strokes.width / grid, strokes.height / grid];
  const [left, top] = [(cell % grid) * width, Math.floor(cell / grid) * height];
  const middle = pen.getImageData(Math.floor(left + width / 2), Math.floor(top + height / 2), 1, 1).data;
  ready();
  // One pixel less on each side: the neighbours are not touched.
  const box = [Math.ceil(left) + 1, Math.ceil(top) + 1, Math.floor(width) - 2, Math.floor(height) - 2];
  if (middle[3] > 0) pen.clearRect(left, top, width, height);
  else if (!erases) pen.fillRect(...box);
  tell();
}

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
strokes.addEventListener("keydown", (event) => {
  if (!stage.classList.contains("ready")) return;
  if (event.key in STEPS) {
    const [across, down] = STEPS[event.key];
    const clamp = (value) => Math.min(Math.max(value, 0), grid - 1);
    cell = clamp((cell % grid) + across) + grid * clamp(Math.floor(cell / grid) + down);
    placeCursor();
  } else if (event.key === " " || event.key === "Enter") paintCell();
  else return;
  event.preventDefault();
  cursor.hidden = false;
});
strokes.addEventListener("blur", () => { cursor.hidden = true; });

element.querySelector(".tools").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button === null) return;
  if (button.dataset.color) [color, erases] = [button.dataset.color, false];
  else if (button.dataset.tool === "erase") erases = !erases;
  else if (stage.classList.contains("ready")) {
    pen.clearRect(0, 0, strokes.width, strokes.height);
    tell();
  }
  press();
});

press();
watch("value", () => show(props.value));
show(props.value);
