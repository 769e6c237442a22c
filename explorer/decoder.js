/* The decoder in plain JavaScript. explorer/weights.py wrote the entries that it runs. */

"use strict";

/* exported makeDecoder, readBytes, readFloats */

// The activations of config.py, as Keras defines them
const ACTIVATIONS = {
  linear: (x) => x,
  relu: (x) => (x > 0 ? x : 0),
  tanh: Math.tanh,
  elu: (x) => (x > 0 ? x : Math.expm1(x)),
  softplus: (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))),
  leaky_relu: (x) => (x > 0 ? x : 0.2 * x),
  selu: (x) => 1.0507009873554805 * (x > 0 ? x : 1.6732632423543772 * Math.expm1(x)),
  sigmoid: (x) => 1 / (1 + Math.exp(-x)),
  softsign: (x) => x / (1 + Math.abs(x)),
};

const LAYERS = { dense: makeDense, transposed_convolution: makeTransposedConvolution };

/* Returns a function from z, L numbers, to the pixels of its picture: h w c numbers from 0 to 1. Each call returns the
 * same array with new content. */
function makeDecoder({ layers, dtype, squeeze }) {
  const steps = layers.map((entry) => LAYERS[entry.type](entry, dtype));
  return (z) => {
    let values = Float32Array.from(z);
    for (const step of steps) {
      values = step(values);
    }
    for (let i = 0; i < values.length; i++) {
      const x = (ACTIVATIONS.sigmoid(values[i]) - squeeze) / (1 - 2 * squeeze);
      values[i] = Math.min(Math.max(x, 0), 1);
    }
    return values;
  };
}

/* y = activation(kernel x + bias), with kernel [units, inputs] */
function makeDense(entry, dtype) {
  const kernel = readFloats(entry.kernel, dtype);
  const bias = readFloats(entry.bias, dtype);
  const activation = ACTIVATIONS[entry.activation];
  const y = new Float32Array(bias.length);
  return (x) => {
    y.set(bias);
    addProduct(kernel, 0, x, 0, x.length, y, 0, y.length);
    apply(activation, y);
    return y;
  };
}

/* A transposed convolution with padding "same": the input's pixel (row, column) adds its product with the kernel's
 * matrix (i, j) to the output's pixel (row stride + i - top, column stride + j - left), for all i and j.
 *
 * It is the gradient of a convolution from the output's size to the input's; top and left are the padding of that
 * convolution. The kernel is [height, width, feature maps, inputs]. */
function makeTransposedConvolution(entry, dtype) {
  const [inputHeight, inputWidth, numInputs] = entry.input_shape;
  const [height, width, numMaps] = entry.output_shape;
  const [kernelHeight, kernelWidth] = entry.kernel_size;
  const [strideDown, strideRight] = entry.strides;
  const top = paddingBefore(inputHeight, height, kernelHeight, strideDown);
  const left = paddingBefore(inputWidth, width, kernelWidth, strideRight);
  const kernel = readFloats(entry.kernel, dtype);
  const bias = readFloats(entry.bias, dtype);
  const activation = ACTIVATIONS[entry.activation];
  const y = new Float32Array(height * width * numMaps);

  function addPixel(x, inputRow, inputColumn) {
    const from = (inputRow * inputWidth + inputColumn) * numInputs;
    for (let i = 0; i < kernelHeight; i++) {
      const row = inputRow * strideDown + i - top;
      if (row < 0 || row >= height) continue;
      for (let j = 0; j < kernelWidth; j++) {
        const column = inputColumn * strideRight + j - left;
        if (column < 0 || column >= width) continue;
        const matrix = (i * kernelWidth + j) * numMaps * numInputs;
        addProduct(kernel, matrix, x, from, numInputs, y, (row * width + column) * numMaps, numMaps);
      }
    }
  }

  return (x) => {
    for (let to = 0; to < y.length; to += numMaps) {
      y.set(bias, to);
    }
    for (let inputRow = 0; inputRow < inputHeight; inputRow++) {
      for (let inputColumn = 0; inputColumn < inputWidth; inputColumn++) {
        addPixel(x, inputRow, inputColumn);
      }
    }
    apply(activation, y);
    return y;
  };
}

/* Adds the product of a matrix and a vector to another vector. They begin at matrix[k], x[from] and y[to]; the matrix
 * has numOutputs rows and numInputs columns.
 *
 * Four rows at once take half the time, because each number of x is read once for all of them. */
function addProduct(matrix, k, x, from, numInputs, y, to, numOutputs) {
  let output = 0;
  for (; output + 4 <= numOutputs; output += 4) {
    const k1 = k + numInputs;
    const k2 = k1 + numInputs;
    const k3 = k2 + numInputs;
    let sum0 = 0;
    let sum1 = 0;
    let sum2 = 0;
    let sum3 = 0;
    for (let i = 0; i < numInputs; i++) {
      const value = x[from + i];
      sum0 += value * matrix[k + i];
      sum1 += value * matrix[k1 + i];
      sum2 += value * matrix[k2 + i];
      sum3 += value * matrix[k3 + i];
    }
    y[to + output] += sum0;
    y[to + output + 1] += sum1;
    y[to + output + 2] += sum2;
    y[to + output + 3] += sum3;
    k = k3 + numInputs;
  }
  for (; output < numOutputs; output++) {
    let sum = 0;
    for (let i = 0; i < numInputs; i++, k++) {
      sum += x[from + i] * matrix[k];
    }
    y[to + output] += sum;
  }
}

/* The rows (or columns) of zeros that a convolution with padding "same" puts before its input of `size`. */
function paddingBefore(outputSize, size, kernelSize, stride) {
  return Math.floor(Math.max((outputSize - 1) * stride + kernelSize - size, 0) / 2);
}

function apply(activation, values) {
  for (let i = 0; i < values.length; i++) {
    values[i] = activation(values[i]);
  }
}

/* Returns the bytes of a text in base64. */
function readBytes(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

/* Returns the numbers of a text in base64: float16 or float32, little-endian. */
function readFloats(base64, dtype) {
  const view = new DataView(readBytes(base64).buffer);
  if (dtype === "float32") {
    return Float32Array.from({ length: view.byteLength / 4 }, (_, i) => view.getFloat32(4 * i, true));
  }
  return Float32Array.from({ length: view.byteLength / 2 }, (_, i) => floatOfHalf(view.getUint16(2 * i, true)));
}

/* Returns the number that 16 bits stand for (IEEE 754 binary16). Infinities and NaNs are never stored. */
function floatOfHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = (bits & 0x3ff) / 1024;
  if (exponent === 0) {
    return sign * fraction * 2 ** -14;
  }
  return sign * (1 + fraction) * 2 ** (exponent - 15);
}
