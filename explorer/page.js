/* The page: what the pointer, the sliders and the buttons do. It reads the entries that explorer/page.py wrote. */

"use strict";

/* global NUM_COLOURS, makeDecoder, makeMap, readBytes, readFloats */

const data = JSON.parse(element("data").textContent);
const decode = makeDecoder(data.decoder);
const [height, width, numChannels] = data.image_shape;
const numLatents = data.latents.order.length;
const numInUse = data.latents.num_in_use;

// style.css has this number too: there, the ends of a slider are at the middle of the first image and of the last one.
const IMAGES_PER_STRIP = 7;
// The strips and the address follow once the point has rested for this long.
const REST_MILLISECONDS = 150;
// Strips are drawn for this long at a time.
const STRIP_MILLISECONDS = 8;
// The time from A to B. With reduced motion the point does not glide, but jumps this often.
const PLAY_MILLISECONDS = 3000;
const PLAY_JUMPS = 8;
// How far an arrow key moves the point on the map, without Shift and with it
const ARROW_STEP = 0.1;
const LONG_ARROW_STEP = 0.5;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] };
// The longer side of a picture, in CSS pixels: on a wide screen and on a narrow one
const PICTURE_SIZE = [288, 140];
const PAIR_SIZE = [116, 84];
const STRIP_IMAGE_SIZE = [64, 48];
const THUMBNAIL_SIZE = [64, 56];

// As in style.css
const wideScreen = matchMedia("(min-width: 1180px)");
const darkScheme = matchMedia("(prefers-color-scheme: dark)");
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

// The point where it rests, and the point under the pointer while the pointer is over the map (else null).
let rest = new Float64Array(numLatents);
let preview = null;
let frame = 0;
let settleTimer = 0;
let hasMoved = false;

function element(id) {
  return document.getElementById(id);
}

/* Returns a new element with these properties and children. */
function make(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function tell(text) {
  element("status").textContent = text;
}

/* Clears the last message, and hides the text to copy, which is that of an earlier point. */
function clearMessage() {
  tell("");
  element("copied").hidden = true;
}

function format(number, numDigits = 2) {
  // The detour through a number leaves out the sign of a rounded zero.
  return Number(number.toFixed(numDigits)).toFixed(numDigits).replace("-", "\u2212");
}

/* Returns the point on the line from one point to another, at a share of the way. */
function mix(from, to, share) {
  return from.map((number, i) => (1 - share) * number + share * to[i]);
}

/* Returns a draw from N(0, 1) (Box & Muller 1958). */
function randomNormal() {
  return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
}

/* ---- Pictures -------------------------------------------------------------------------------------------------- */

const imageData = new ImageData(width, height);

/* Draws an image on a canvas, `left` pixels from its left edge. Its pixels are numbers from 0 to `white`. */
function paint(canvas, pixels, { white = 1, left = 0 } = {}) {
  const scale = 255 / white;
  for (let pixel = 0; pixel < width * height; pixel++) {
    for (let colour = 0; colour < 3; colour++) {
      const channel = numChannels === 1 ? 0 : colour;
      imageData.data[4 * pixel + colour] = Math.round(scale * pixels[pixel * numChannels + channel]);
    }
    imageData.data[4 * pixel + 3] = 255;
  }
  canvas.getContext("2d").putImageData(imageData, left, 0);
}

/* Makes a canvas hold `count` images side by side, each as large as `sizes` say: [wide screen, narrow screen]. */
function setSize(canvas, sizes, count = 1) {
  canvas.width = width * count;
  canvas.height = height;
  function fit() {
    const zoom = zoomFor(wideScreen.matches ? sizes[0] : sizes[1]);
    canvas.style.width = `${zoom * width * count}px`;
    canvas.classList.toggle("pixels", zoom >= 1);
  }
  fit();
  wideScreen.addEventListener("change", fit);
}

/* Returns the CSS pixels per pixel of an image. They are rounded down to a whole number of the screen's pixels,
 * unless that would make the image much smaller than `size`. */
function zoomFor(size) {
  const exact = size / Math.max(width, height);
  const whole = Math.floor(exact * devicePixelRatio) / devicePixelRatio;
  return whole >= 0.75 * exact ? whole : exact;
}

/* ---- The point ------------------------------------------------------------------------------------------------- */

/* Moves the point to z, where it rests. Its numbers are rounded as in the address and in the copied array. */
function moveTo(z) {
  rest = Float64Array.from(z, (number) => Number(number.toFixed(4)));
  preview = null;
  hasMoved = true;
  latentStrips.forEach(forgetStrip);
  requestRender();
}

/* Moves the point to z at the user's request: stops playing, and clears the last message. */
function stopAndMoveTo(z) {
  stopPlaying();
  clearMessage();
  moveTo(z);
}

/* Shows z without moving the point; null shows the point again. */
function show(z) {
  preview = z;
  requestRender();
}

/* Draws all but the strips at the next frame. The strips wait until the point rests. */
function requestRender() {
  stopDrawingStrips();
  clearTimeout(settleTimer);
  settleTimer = setTimeout(settle, REST_MILLISECONDS);
  if (!frame) {
    frame = requestAnimationFrame(render);
  }
}

function render() {
  frame = 0;
  const shown = preview ?? rest;
  paint(element("picture"), decode(shown));
  map.draw({ ...ends, rest, shown });
  describePoint(shown);
  showLatents(shown);
}

/* Catches up with the point after it has rested for a while. */
function settle() {
  drawStrips();
  if (hasMoved) {
    hasMoved = false;
    history.replaceState(null, "", `#z=${rest.join(",")}`);
  }
}

/* Moves the point to the one in the address, if there is one. */
function moveToAddress() {
  if (!location.hash.startsWith("#z=")) {
    return;
  }
  const z = location.hash.slice(3).replaceAll("%2C", ",").split(",").map(Number.parseFloat);
  if (z.length !== numLatents || !z.every(Number.isFinite)) {
    tell(`The address is ignored, because it does not have ${numLatents} numbers after z=.`);
    return;
  }
  stopAndMoveTo(z);
}

/* Copies the point as a NumPy array, or shows the text to copy where the browser does not allow it. */
async function copyPoint() {
  const text = `np.array([${rest.join(", ")}], dtype=np.float32)`;
  try {
    await navigator.clipboard.writeText(text);
    clearMessage();
    tell("Copied.");
  } catch {
    const box = element("copied");
    box.value = text;
    box.hidden = false;
    box.select();
    tell("The browser does not allow copying. Copy the text below.");
  }
}

function setUpButtons() {
  element("random").addEventListener("click", () => stopAndMoveTo(rest.map(randomNormal)));
  element("zero").addEventListener("click", () => stopAndMoveTo(new Float64Array(numLatents)));
  element("copy").addEventListener("click", copyPoint);
  addEventListener("hashchange", moveToAddress);
}

/* ---- Strips: decoded images along a line, drawn a few at a time while the point rests --------------------------- */

const latentStrips = [];
let stripTimer = 0;

/* Returns a strip of a canvas. pointAt(share) is the z of the image at this share of the way, from 0 to 1. */
function makeStrip(canvas, pointAt) {
  setSize(canvas, STRIP_IMAGE_SIZE, IMAGES_PER_STRIP);
  return { canvas, pointAt, numDrawn: 0 };
}

function forgetStrip(strip) {
  strip.numDrawn = 0;
}

function stopDrawingStrips() {
  clearTimeout(stripTimer);
}

/* Draws images for half a frame, at least one, in the strips that are on the page. It continues after a break in which
 * the browser answers the user. (Chromium calls no idle callbacks for a long time after a tap.) */
function drawStrips() {
  const started = performance.now();
  do {
    const strip = [between, ...latentStrips].find((each) => each.numDrawn < IMAGES_PER_STRIP && isOpen(each.canvas));
    if (!strip) {
      return;
    }
    const z = strip.pointAt(strip.numDrawn / (IMAGES_PER_STRIP - 1));
    paint(strip.canvas, decode(z), { left: strip.numDrawn * width });
    strip.numDrawn += 1;
  } while (performance.now() - started < STRIP_MILLISECONDS);
  stripTimer = setTimeout(drawStrips);
}

/* Returns whether an element is on the page, and not folded away. */
function isOpen(each) {
  return each.offsetParent !== null;
}

/* Calls onPick(share) when an image of a strip is clicked. The slider below it does the same by keyboard. */
function makeClickable(strip, onPick) {
  strip.canvas.addEventListener("click", (event) => {
    const box = strip.canvas.getBoundingClientRect();
    const image = Math.floor(((event.clientX - box.left) / box.width) * IMAGES_PER_STRIP);
    onPick(Math.min(image / (IMAGES_PER_STRIP - 1), 1));
  });
}

/* ---- The map --------------------------------------------------------------------------------------------------- */

const map = makeMap(element("map"), data.map, data.class_names);

/* Writes above the map where a point is. */
function describePoint(z) {
  const { coordinates, distance } = map.project(z);
  const place = `z is at (${coordinates.map((number) => format(number)).join(", ")})`;
  const isOnPlane = distance < 0.005;
  element("readout").textContent = isOnPlane ? place : `${place}, ${format(distance)} off this plane`;
}

function setUpMap() {
  const canvas = element("map");
  canvas.classList.toggle("line", map.isLine);
  const layOut = () => {
    map.layOut();
    requestRender();
  };
  new ResizeObserver(layOut).observe(canvas);
  darkScheme.addEventListener("change", layOut);

  const pointUnder = (event) => map.pointAt(map.coordinatesUnder(event));
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    show(pointUnder(event));
  });
  canvas.addEventListener("pointermove", (event) => show(pointUnder(event)));
  canvas.addEventListener("pointerup", (event) => {
    // A press that began outside the map is ignored.
    if (event.button === 0 && canvas.hasPointerCapture(event.pointerId)) {
      stopAndMoveTo(pointUnder(event));
    }
  });
  canvas.addEventListener("pointercancel", () => show(null));
  canvas.addEventListener("pointerleave", () => show(null));
  canvas.addEventListener("keydown", moveByArrow);
}

function moveByArrow(event) {
  const direction = ARROWS[event.key];
  if (!direction || event.ctrlKey || event.altKey || event.metaKey) {
    return;
  }
  event.preventDefault();
  const step = event.shiftKey ? LONG_ARROW_STEP : ARROW_STEP;
  const { coordinates } = map.project(rest);
  stopAndMoveTo(map.pointAt(coordinates.map((number, k) => number + step * direction[k])));
  tell(coordinates.map((number, k) => format(number + step * direction[k])).join(", "));
}

/* Makes a button for each class that emphasises its dots. In a sequence without classes, the colours stand for places,
 * and a scale is shown. */
function setUpLegend() {
  element("scale").hidden = data.class_names !== null || !data.map.is_sequence;
  element("legend").hidden = !map.hasColours;
  if (!map.hasColours) {
    return;
  }
  const buttons = data.class_names.map((name, i) => {
    const sign = make("i", { className: i < NUM_COLOURS ? "dot" : "ring" });
    sign.style.setProperty("--colour", `var(--class-${i % NUM_COLOURS})`);
    return make("button", { type: "button", title: name, ariaPressed: "false" }, sign, make("span", {}, name));
  });
  buttons.forEach((button, i) => {
    button.addEventListener("click", () => {
      const isPressed = button.ariaPressed === "false";
      buttons.forEach((each) => (each.ariaPressed = "false"));
      button.ariaPressed = String(isPressed);
      map.emphasise(isPressed ? i : null);
      requestRender();
    });
  });
  element("legend").append(...buttons);
}

/* ---- Latents --------------------------------------------------------------------------------------------------- */

// What shows each latent: {index, slider, value}
const latentRows = [];

/* Adds a row for the latent at a place of the order: its name, its share of the variance, a strip and a slider. */
function addLatent(parent, place) {
  const { order, shares, reach } = data.latents;
  const index = order[place];
  const id = `latent-${index + 1}`;
  const shareText = `${format(100 * shares[place], shares[place] < 0.1 ? 1 : 0)}%`;
  const label = make("label", { htmlFor: id }, `z[${index}]`, make("span", { className: "share" }, shareText));
  const canvas = make("canvas", { className: "strip", ariaHidden: "true" });
  const slider = make("input", { type: "range", id, min: -reach, max: reach, step: 0.01 });
  const value = make("span", { className: "value" });
  parent.append(
    make("div", { className: "latent" }, label, make("div", { className: "track" }, canvas, slider), value),
  );

  const along = (share) => rest.with(index, (2 * share - 1) * reach);
  const strip = makeStrip(canvas, along);
  makeClickable(strip, (share) => stopAndMoveTo(along(share)));
  slider.addEventListener("input", () => stopAndMoveTo(rest.with(index, slider.valueAsNumber)));
  latentStrips.push(strip);
  latentRows.push({ index, slider, value });
}

/* Shows z in the sliders. A number beyond the reach of a slider is shown beside it. */
function showLatents(z) {
  for (const { index, slider, value } of latentRows) {
    slider.value = z[index];
    slider.ariaValueText = format(z[index]);
    value.textContent = format(z[index]);
  }
}

function setUpLatents() {
  for (let place = 0; place < numInUse; place++) {
    addLatent(element("latents"), place);
  }
  const numUnused = numLatents - numInUse;
  if (numUnused === 0) {
    return;
  }
  const unused = element("unused");
  unused.hidden = false;
  element("unused-summary").textContent = `${numUnused} ${numUnused === 1 ? "latent" : "latents"} not in use`;
  unused.addEventListener("toggle", () => {
    for (let place = latentRows.length; place < numLatents; place++) {
      addLatent(element("unused-latents"), place);
    }
    requestRender();
  });
}

/* ---- Test images ----------------------------------------------------------------------------------------------- */

const numPixels = height * width * numChannels;
const testImages = {
  pixels: readBytes(data.test_images.pixels),
  means: readFloats(data.test_images.means, "float32"),
  stds: readFloats(data.test_images.stds, "float32"),
};

function pixelsOf(i) {
  return testImages.pixels.subarray(i * numPixels, (i + 1) * numPixels);
}

function meanOf(i) {
  return testImages.means.subarray(i * numLatents, (i + 1) * numLatents);
}

/* Returns what a test image is called: its name, and its class. */
function nameOf(i) {
  const { names, classes } = data.test_images;
  return classes === null ? names[i] : `${names[i]}, class ${data.class_names[classes[i]]}`;
}

/* Moves the point to the mean of q(z|x) of a test image, or to a sample of it, and shows the image beside it. */
function pick(i) {
  const isSample = element("pick-sample").checked;
  const mean = meanOf(i);
  const stds = testImages.stds.subarray(i * numLatents, (i + 1) * numLatents);
  stopAndMoveTo(isSample ? mean.map((number, k) => number + stds[k] * randomNormal()) : mean);
  showPair(i, rest);
  [...element("thumbnails").children].forEach((button, k) => (button.ariaPressed = String(k === i)));
}

/* Shows a test image and its reconstruction from z. */
function showPair(i, z) {
  paint(element("original"), pixelsOf(i), { white: 255 });
  element("original").ariaLabel = nameOf(i);
  element("original-caption").textContent = nameOf(i);
  paint(element("reconstruction"), decode(z));
}

function setUpTestImages() {
  const buttons = data.test_images.names.map((_, i) => {
    const canvas = make("canvas", {});
    setSize(canvas, THUMBNAIL_SIZE);
    paint(canvas, pixelsOf(i), { white: 255 });
    const button = make("button", { type: "button", title: nameOf(i), ariaLabel: nameOf(i), ariaPressed: "false" }, canvas);
    button.addEventListener("click", () => pick(i));
    return button;
  });
  element("thumbnails").append(...buttons);
  // Two rows of ten look better than one and a half.
  element("thumbnails").style.maxWidth = `${10 * (buttons[0].offsetWidth + 2)}px`;
}

/* ---- From A to B ----------------------------------------------------------------------------------------------- */

// At first, A and B are the first test image on the page and the last one.
const ends = { a: meanOf(0), b: meanOf(data.test_images.names.length - 1) };
const betweenSlider = element("between");
const between = makeStrip(element("between-strip"), (share) => mix(ends.a, ends.b, share));
let cancelNextMove = () => {};
let isPlaying = false;

/* Moves the point to a share of the way from A to B. */
function moveBetween(share) {
  betweenSlider.value = share;
  moveTo(mix(ends.a, ends.b, share));
}

/* Does the same at the user's request: stops playing, and clears the last message. */
function stopAndMoveBetween(share) {
  stopPlaying();
  clearMessage();
  moveBetween(share);
}

/* Makes the point at rest an end of the line, "a" or "b". */
function setEnd(name) {
  stopPlaying();
  ends[name] = rest;
  betweenSlider.value = name === "a" ? 0 : 1;
  forgetStrip(between);
  requestRender();
}

function startPlaying() {
  clearMessage();
  isPlaying = true;
  element("play").textContent = "Stop";
  if (reducedMotion.matches) {
    jump(0);
  } else {
    const started = performance.now() - startOfPlay() * PLAY_MILLISECONDS;
    moveAtNextFrame((now) => glide(now, started));
  }
}

/* Returns the share of the way at which playing begins: where the slider is, but not at its end. */
function startOfPlay() {
  return betweenSlider.valueAsNumber % 1;
}

/* Goes from A to B and back, until it is stopped. */
function glide(now, started) {
  const laps = Math.max(now - started, 0) / PLAY_MILLISECONDS;
  moveBetween(1 - Math.abs(1 - (laps % 2)));
  moveAtNextFrame((later) => glide(later, started));
}

function moveAtNextFrame(move) {
  const frame = requestAnimationFrame(move);
  cancelNextMove = () => cancelAnimationFrame(frame);
}

/* Goes from A to B once, in jumps. */
function jump(count) {
  moveBetween(count / PLAY_JUMPS);
  if (count === PLAY_JUMPS) {
    stopPlaying();
  } else {
    const timer = setTimeout(jump, PLAY_MILLISECONDS / PLAY_JUMPS, count + 1);
    cancelNextMove = () => clearTimeout(timer);
  }
}

function stopPlaying() {
  if (!isPlaying) {
    return;
  }
  isPlaying = false;
  cancelNextMove();
  element("play").textContent = "Play";
}

function setUpBetween() {
  makeClickable(between, stopAndMoveBetween);
  betweenSlider.addEventListener("input", () => stopAndMoveBetween(betweenSlider.valueAsNumber));
  element("set-a").addEventListener("click", () => setEnd("a"));
  element("set-b").addEventListener("click", () => setEnd("b"));
  element("play").addEventListener("click", () => (isPlaying ? stopPlaying() : startPlaying()));
}

/* ---- The page -------------------------------------------------------------------------------------------------- */

function describeRun() {
  const { name, dataset, epoch, test_elbo, image_shows, data_verified } = data.summary;
  const latents = numLatents === 1 ? "1 latent" : `${numLatents} latents`;
  element("title").textContent = `${dataset}, ${latents}`;
  const parts = [name, `epoch ${epoch}`];
  if (test_elbo !== null) {
    parts.push(`test ELBO ${test_elbo.replace("-", "\u2212")}`);
  }
  if (data_verified === false) {
    parts.push("unverified data");
  }
  parts.push(`each picture is the ${image_shows} of p(x|z)`);
  element("summary").append(...parts.map((part) => make("span", {}, part)));
}

/* Writes what the map and the list of latents show. */
function describeMethods() {
  const plane =
    numLatents <= 2
      ? "The test images, each at its mean of q(z|x)."
      : "The test images, each at its mean of q(z|x), in the plane of the means' first two principal components. " +
        "The other components are at their average.";
  const deviations = map.isLine ? "Lines" : "Rings";
  element("map-hint").textContent =
    `${plane} ${deviations}: 1, 2 and 3 standard deviations of the prior. ` +
    "Point to a place to decode it; click to stay there.";
  const reach = format(data.latents.reach, 1);
  element("latents-hint").textContent =
    "Those that carry most of the variance of the means come first. " +
    `Each strip shows one latent from \u2212${reach} to ${reach}, with the others as they are now.`;
}

/* Keeps the column with the map on the screen while the longer list of latents scrolls. */
function keepPlacesOnScreen() {
  const places = element("places");
  const stick = () => {
    places.style.top = `${Math.min(16, innerHeight - places.offsetHeight - 16)}px`;
  };
  new ResizeObserver(stick).observe(places);
  addEventListener("resize", stick);
}

for (const [id, sizes] of [["picture", PICTURE_SIZE], ["original", PAIR_SIZE], ["reconstruction", PAIR_SIZE]]) {
  setSize(element(id), sizes);
}
describeRun();
describeMethods();
setUpMap();
setUpLegend();
setUpLatents();
setUpTestImages();
setUpBetween();
setUpButtons();
keepPlacesOnScreen();
pick(0);
moveToAddress();
// The address stays as it is until the user moves.
hasMoved = false;
