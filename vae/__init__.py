"""The variational autoencoders of "Playing with VAEs", and the settings of TensorFlow and Keras that they need.

TensorFlow reads these variables when it is imported, and the numbers depend on them.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# oneDNN is off by default on processors without AVX-512, where it halves the time of a conv3 step.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# XLA prefers vectors of 256 bits. With AVX-512, 512 bits save 5% of an epoch.
if "prefer_vector_width" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_prefer_vector_width=512".lstrip()
# The user's settings of Keras would change the models. Keras reads them from this folder, and here it finds none.
os.environ["KERAS_HOME"] = os.devnull
os.environ["KERAS_BACKEND"] = "tensorflow"
