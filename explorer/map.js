/* The map: the test set's means as dots on a line or in a plane of the latent space, and marks for single points. */

"use strict";

/* exported makeMap, NUM_COLOURS */
/* global readFloats */

// There are ten colours. Classes from the eleventh on have them again, as rings. Still more classes have no colours.
const NUM_COLOURS = 10;
const MAX_COLOURED_CLASSES = 2 * NUM_COLOURS;
const NUM_SCALE_COLOURS = 5;

// In CSS pixels: the room around the dots, the least distance between two numbers on an axis, the height of a name
const MARGIN = { left: 44, right: 16, top: 16, bottom: 44 };
const TICK_DISTANCE = 60;
const NAME_HEIGHT = 18;
const NAME_FONT = "600 14px";
const MAX_NAME_LENGTH = 14;
// The names of classes are on the map if the classes differ in this share of the dots' variance, or more.
const MIN_SHARE_OF_CLASSES = 0.1;

/* Returns the map of a canvas: an object of functions. `entries` is what explorer/page.py wrote; classNames is null if
 * there are no classes. */
function makeMap(canvas, entries, classNames) {
  const origin = readFloats(entries.origin, "float32");
  const axes = entries.axes.map((axis) => readFloats(axis, "float32"));
  const isLine = axes.length === 1;
  const hasColours = classNames !== null && classNames.length <= MAX_COLOURED_CLASSES;
  const dots = readDots();
  const hasNames = hasColours && shareOfClasses(dots, classNames.length) >= MIN_SHARE_OF_CLASSES;
  const [left, right] = rangeOf(dots.map((each) => each.at[0]));
  const [low, high] = rangeOf(dots.map((each) => each.at[1]));
  // The background holds what does not move: dots, rings and axes.
  const background = document.createElement("canvas");
  let colours = {};
  let emphasisedClass = null;
  // The names of classes on the map: {text, at: a CSS pixel, halfWidth}
  let names = [];
  // CSS pixels per unit, across and up, and the pixel of the dots' centre
  let scale = [1, 1];
  let middle = [0, 0];

  /* Returns the dots: `at` has two coordinates, of which the second only keeps dots apart if the map is a line. */
  function readDots() {
    const numbers = readFloats(entries.dots, "float32");
    const numDots = numbers.length / axes.length;
    return Array.from({ length: numDots }, (_, i) => ({
      at: isLine ? [numbers[i], heightOnLine(i)] : [numbers[2 * i], numbers[2 * i + 1]],
      classNumber: entries.classes?.[i],
      share: i / Math.max(numDots - 1, 1),
    }));
  }

  /* Returns how high a dot is on a line: each class has a lane, the first one on top. */
  function heightOnLine(i) {
    const placeInLane = 0.15 + 0.7 * ((i * 0.618) % 1);
    return hasColours ? classNames.length - entries.classes[i] - placeInLane : placeInLane;
  }

  /* Returns the coordinates of z on the map, and how far away from it z is. */
  function project(z) {
    const difference = origin.map((number, i) => z[i] - number);
    const coordinates = axes.map((axis) => dot(axis, difference));
    const squared = dot(difference, difference) - dot(coordinates, coordinates);
    return { coordinates, distance: Math.sqrt(Math.max(squared, 0)) };
  }

  /* Returns the point z at coordinates on the map. */
  function pointAt(coordinates) {
    return origin.map((number, i) => axes.reduce((sum, axis, k) => sum + coordinates[k] * axis[i], number));
  }

  /* Returns the coordinates under a pointer. */
  function coordinatesUnder(event) {
    // The box has the canvas's border around what is drawn.
    const box = canvas.getBoundingClientRect();
    const x = event.clientX - box.left - canvas.clientLeft;
    const y = event.clientY - box.top - canvas.clientTop;
    const across = (left + right) / 2 + (x - middle[0]) / scale[0];
    const up = (low + high) / 2 - (y - middle[1]) / scale[1];
    return isLine ? [across] : [across, up];
  }

  /* Returns the CSS pixel of two coordinates. */
  function toScreen([across, up]) {
    return [middle[0] + (across - (left + right) / 2) * scale[0], middle[1] - (up - (low + high) / 2) * scale[1]];
  }

  /* Returns the CSS pixel at which z is marked. */
  function placeOf(z) {
    const { coordinates } = project(z);
    return toScreen(isLine ? [coordinates[0], (low + high) / 2] : coordinates);
  }

  /* Fits the map to the size of its canvas, and draws its background. */
  function layOut() {
    for (const each of [canvas, background]) {
      each.width = Math.round(canvas.clientWidth * devicePixelRatio);
      each.height = Math.round(canvas.clientHeight * devicePixelRatio);
    }
    const room = [
      canvas.clientWidth - MARGIN.left - MARGIN.right,
      canvas.clientHeight - MARGIN.top - MARGIN.bottom,
    ];
    scale = [room[0] / (right - left), room[1] / (high - low)];
    if (!isLine) {
      scale.fill(Math.min(...scale));
    }
    middle = [MARGIN.left + room[0] / 2, MARGIN.top + room[1] / 2];
    drawBackground();
  }

  function drawBackground() {
    const context = background.getContext("2d");
    colours = readColours();
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
    context.lineWidth = 1;
    context.strokeStyle = colours.line;
    drawDeviations(context);
    drawAxes(context);
    drawDots(context);
    names = hasNames ? placeNames(context) : [];
  }

  /* Draws rings (on a line: marks) at 1, 2 and 3 standard deviations of the prior, which is centred on z = 0. */
  function drawDeviations(context) {
    const [x, y] = placeOf(new Float32Array(origin.length));
    for (const radius of [1, 2, 3]) {
      context.beginPath();
      if (isLine) {
        for (const side of [-radius, radius]) {
          context.moveTo(x + side * scale[0], MARGIN.top);
          context.lineTo(x + side * scale[0], canvas.clientHeight - MARGIN.bottom);
        }
      } else {
        context.arc(x, y, radius * scale[0], 0, 2 * Math.PI);
      }
      context.stroke();
    }
  }

  /* Writes numbers along the lower side and the left one, and the names of the coordinates. */
  function drawAxes(context) {
    const bottom = canvas.clientHeight - MARGIN.bottom;
    context.clearRect(0, bottom, canvas.clientWidth, MARGIN.bottom);
    context.clearRect(0, 0, MARGIN.left, canvas.clientHeight);
    setFont(context, "12px", colours.muted);
    for (const number of ticks(scale[0])) {
      const [x] = toScreen([number, 0]);
      if (x > MARGIN.left && x < canvas.clientWidth - MARGIN.right) {
        context.fillText(formatTick(number), x, bottom + 12);
      }
    }
    context.fillText(entries.labels[0], middle[0], bottom + 32);
    if (isLine) {
      return;
    }
    for (const number of ticks(scale[1])) {
      const [, y] = toScreen([0, number]);
      if (y > MARGIN.top && y < bottom - MARGIN.top) {
        context.fillText(formatTick(number), MARGIN.left - 14, y);
      }
    }
    context.save();
    context.translate(12, middle[1]);
    context.rotate(-Math.PI / 2);
    context.fillText(entries.labels[1], 0, 0);
    context.restore();
  }

  /* Returns round numbers, far enough apart, that reach beyond both ends of the map. */
  function ticks(pixelsPerUnit) {
    const steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];
    const step = steps.find((each) => each * pixelsPerUnit >= TICK_DISTANCE) ?? 10000;
    const count = Math.ceil(Math.max(canvas.clientWidth, canvas.clientHeight) / (step * pixelsPerUnit));
    const first = Math.round((isLine ? left : Math.min(left, low)) / step) - count;
    return Array.from({ length: 3 * count }, (_, i) => (first + i) * step);
  }

  function drawDots(context) {
    const isEmphasised = ({ classNumber }) => emphasisedClass === null || classNumber === emphasisedClass;
    const radius = canvas.clientWidth < 500 ? 2 : 2.6;
    // The emphasised dots are drawn last, on top of the others.
    for (const each of [...dots].sort((a, b) => isEmphasised(a) - isEmphasised(b))) {
      context.globalAlpha = isEmphasised(each) ? 0.85 : 0.1;
      context.beginPath();
      context.arc(...toScreen(each.at), radius, 0, 2 * Math.PI);
      if (hasColours && each.classNumber >= NUM_COLOURS) {
        context.lineWidth = 1.2;
        context.strokeStyle = colourOf(each);
        context.stroke();
      } else {
        context.fillStyle = colourOf(each);
        context.fill();
      }
    }
    context.globalAlpha = 1;
  }

  /* Returns the colour of a dot's class, or, in a sequence without classes, of its place there. */
  function colourOf({ classNumber, share }) {
    if (classNames === null && entries.is_sequence) {
      return colours.scale[Math.round(share * (NUM_SCALE_COLOURS - 1))];
    }
    return hasColours ? colours.classes[classNumber % NUM_COLOURS] : colours.muted;
  }

  /* Returns the names to write, each at the median of its class' dots. */
  function placeNames(context) {
    setFont(context, NAME_FONT, colours.text);
    const placed = [];
    classNames.forEach((name, classNumber) => {
      const itsDots = dots.filter((each) => each.classNumber === classNumber);
      const isHidden = emphasisedClass !== null && emphasisedClass !== classNumber;
      if (itsDots.length === 0 || isHidden) return;
      const text = name.length > MAX_NAME_LENGTH ? `${name.slice(0, MAX_NAME_LENGTH - 1)}\u2026` : name;
      const medianAlong = (k) => median(itsDots.map((each) => each.at[k]));
      const at = toScreen([medianAlong(0), medianAlong(1)]);
      placed.push({ text, at, halfWidth: context.measureText(text).width / 2 + 4 });
    });
    moveApart(placed);
    return placed;
  }

  function drawNames(context) {
    setFont(context, NAME_FONT, colours.text);
    context.lineJoin = "round";
    context.lineWidth = 4;
    context.strokeStyle = colours.surface;
    for (const { text, at } of names) {
      context.strokeText(text, ...at);
      context.fillText(text, ...at);
    }
  }

  function setFont(context, font, colour) {
    context.font = `${font} ${colours.font}`;
    context.fillStyle = colour;
    context.textAlign = "center";
    context.textBaseline = "middle";
  }

  /* Draws the map with the points A and B, the point at rest, and the point that is shown, if that is another one. */
  function draw({ a, b, rest, shown }) {
    const context = canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(background, 0, 0);
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);

    context.beginPath();
    context.moveTo(...placeOf(a));
    context.lineTo(...placeOf(b));
    strokeWithHalo(context, 1.5, colours.text);
    drawNames(context);
    drawLetter(context, "A", placeOf(a));
    drawLetter(context, "B", placeOf(b));
    drawRing(context, placeOf(rest), 9);
    if (shown !== rest) {
      drawRing(context, placeOf(shown), 5);
    }
  }

  function drawLetter(context, letter, [x, y]) {
    context.beginPath();
    context.arc(x, y, 9, 0, 2 * Math.PI);
    context.fillStyle = colours.surface;
    context.fill();
    strokeWithHalo(context, 1.5, colours.text);
    setFont(context, "600 11px", colours.text);
    context.fillText(letter, x, y + 0.5);
  }

  function drawRing(context, [x, y], radius) {
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    strokeWithHalo(context, 3, colours.accent);
  }

  /* Strokes the current path with an edge in the map's own colour, so that it can be seen on dots. */
  function strokeWithHalo(context, lineWidth, colour) {
    context.lineWidth = lineWidth + 3;
    context.strokeStyle = colours.surface;
    context.stroke();
    context.lineWidth = lineWidth;
    context.strokeStyle = colour;
    context.stroke();
  }

  /* Makes the dots of one class stand out; null for none. */
  function emphasise(classNumber) {
    emphasisedClass = classNumber;
    drawBackground();
  }

  return { isLine, hasColours, project, pointAt, coordinatesUnder, layOut, draw, emphasise };
}

/* Returns the colours and the font of the style sheet. They depend on the system's setting, light or dark. */
function readColours() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  return {
    text: colour("--text"),
    muted: colour("--muted"),
    line: colour("--line"),
    surface: colour("--surface"),
    accent: colour("--accent"),
    classes: Array.from({ length: NUM_COLOURS }, (_, i) => colour(`--class-${i}`)),
    scale: Array.from({ length: NUM_SCALE_COLOURS }, (_, i) => colour(`--scale-${i}`)),
    font: style.fontFamily,
  };
}

/* Returns the share of the dots' variance that lies between the averages of the classes. */
function shareOfClasses(dots, numClasses) {
  let within = 0;
  for (let classNumber = 0; classNumber < numClasses; classNumber++) {
    within += varianceOf(dots.filter((each) => each.classNumber === classNumber));
  }
  return 1 - within / varianceOf(dots);
}

/* Returns the sum of the squared distances of dots from their average. */
function varianceOf(dots) {
  const average = [0, 1].map((k) => dots.reduce((sum, each) => sum + each.at[k] / dots.length, 0));
  return dots.reduce((sum, { at }) => sum + (at[0] - average[0]) ** 2 + (at[1] - average[1]) ** 2, 0);
}

function dot(a, b) {
  return a.reduce((sum, number, i) => sum + number * b[i], 0);
}

function median(numbers) {
  return numbers.sort((a, b) => a - b)[numbers.length >> 1];
}

/* Returns the least and the greatest number, which differ by at least a little. */
function rangeOf(numbers) {
  const least = numbers.reduce((a, b) => Math.min(a, b));
  const greatest = numbers.reduce((a, b) => Math.max(a, b));
  return [least, Math.max(greatest, least + 0.01)];
}

function formatTick(number) {
  return String(Number(number.toFixed(1))).replace("-", "\u2212");
}

/* Pushes names that overlap up and down, until none does or they have been pushed 50 times. */
function moveApart(names) {
  let hasOverlap = true;
  for (let round = 0; hasOverlap && round < 50; round++) {
    hasOverlap = false;
    for (const [i, first] of names.entries()) {
      for (const second of names.slice(i + 1)) {
        if (pushApart(first, second)) {
          hasOverlap = true;
        }
      }
    }
  }
}

/* Pushes two names apart if they overlap, and returns whether they did. */
function pushApart(first, second) {
  const across = Math.abs(first.at[0] - second.at[0]);
  const down = second.at[1] - first.at[1];
  if (across >= first.halfWidth + second.halfWidth || Math.abs(down) >= NAME_HEIGHT - 0.5) {
    return false;
  }
  const push = ((NAME_HEIGHT - Math.abs(down)) / 2) * (down < 0 ? -1 : 1);
  first.at[1] -= push;
  second.at[1] += push;
  return true;
}
