"""Programs with the post's code, mended as the README and 'More errors' say.

A program that does what the post's does, in other words, runs in three processes: without the lines of
the README ('bare'), below them ('graph'), and below them without the last one ('eager'). At its end,
each process runs further code, and writes down with what error it ended.

To add an error, add its row to the table in outputs/reference/post/README.md, and a case to CASES here.
"""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from textwrap import indent

import matplotlib.cm
import pytest

from helpers import ERRORS, MNIST, README, block, edited, edits, table

LINES = block(README, "sys.modules['keras'] = tf_keras")
SAVE_WEIGHTS = block(ERRORS, "vae.save_weights('weights.h5')")
LOAD_WEIGHTS = block(ERRORS, 'vae.load_weights')
SAVE = block(ERRORS, 'load_model')
ADD_LOSS = block(ERRORS, 'vae.add_loss')
TABLE = table(README, 'what you see') + table(ERRORS, 'what you see')

PROGRAM = f"""
import keras
from keras.layers import Conv2D, Conv2DTranspose, Dense
from keras.layers import Flatten, Input, Lambda, Reshape
from keras.models import Model
from keras.losses import binary_crossentropy
from keras import backend as K
import numpy as np
import matplotlib.pyplot as plt

with np.load({str(MNIST)!r}) as file:
    input_train = file['x_train'][:1000, :, :, None].astype('float32') / 255
    target_train = file['y_train'][:1000]
img_width = img_height = 28
few = input_train[:64]
keras.utils.set_random_seed(1)

i = Input((28, 28, 1), name='encoder_input')
cx = Conv2D(8, 3, 2, 'same', activation='relu')(i)
conv_shape = K.int_shape(cx)
x = Dense(20, 'relu')(Flatten()(cx))
mu, sigma = [Dense(2, name=name)(x) for name in ('latent_mu', 'latent_sigma')]


def sample_z(args):
    mu, sigma = args
    return mu + K.sqrt(K.exp(sigma)) * K.random_normal(K.shape(mu))


z = Lambda(sample_z, name='z')([mu, sigma])
encoder = Model(i, [mu, sigma, z], name='encoder')

d_i = Input((2,), name='decoder_input')
x = Reshape(conv_shape[1:])(Dense(conv_shape[1] * conv_shape[2] * conv_shape[3], 'relu')(d_i))
o = Conv2DTranspose(1, 3, 2, 'same', activation='sigmoid')(x)
decoder = Model(d_i, o, name='decoder')

vae = Model(i, decoder(encoder(i)[2]), name='vae')


def kl_reconstruction_loss(true, pred):
    divergence = K.sum(K.exp(sigma) + mu ** 2 - sigma - 1, axis=1) / 2
    crossentropy = binary_crossentropy(K.flatten(true), K.flatten(pred))
    return img_width * img_height * K.mean(crossentropy) + K.mean(divergence)


vae.compile(optimizer='adam', loss=kl_reconstruction_loss)
history = vae.fit(input_train, input_train, epochs=3, batch_size=16, verbose=0, validation_split=0.2).history

plt.scatter(*encoder.predict(input_train, verbose=0)[0].T, c=target_train)
"""
WITH_TENSORFLOW_KERAS = re.sub('^import keras', 'from tensorflow import keras', PROGRAM, flags=re.MULTILINE)
WITH_TENSORFLOW_KERAS = WITH_TENSORFLOW_KERAS.replace('from keras', 'from tensorflow.keras')
COMPILE = "vae.compile(optimizer='adam', loss=kl_reconstruction_loss)\n"

# For the cases, after the program. SGD makes a smaller graph than Adam
PREPARE = """
import matplotlib.cm
import tf_keras


def train(optimizer=keras.optimizers.legacy.SGD(1e-6), images=few, metrics=None, **settings):
    vae.compile(optimizer, kl_reconstruction_loss, metrics)
    return vae.fit(images, images, verbose=0, **settings)


class Sampler:
    def sample(self, args):
        return sample_z(args)


class Meter:
    def measure(self, true, pred):
        return K.mean(pred)


sampler, meter = Sampler(), Meter()
"""

# Each case has the process, the message, and code that ends with the message, as a diff. After the edit, the
# code ends without an error (that of 'bare' in 'graph'). Message and edit stand in a row of the README or of
# 'More errors'. The last three of 'graph' leave something behind that is in the way of others.
CASES_AS_DIFFS = r"""
bare: No module named 'keras.preprocessing.text'
 import keras.preprocessing.text

bare: module 'keras.backend' has no attribute 'sum'
 from keras import backend as K
 K.sum(K.constant([1.0]))

bare: 'tuple' object has no attribute 'rank'
 from tensorflow.keras.layers import Input
-from tensorflow.python.keras.layers import Dense
+from tensorflow.keras.layers import Dense
 Dense(2)(Input((2,)))

graph: AssertionError
-tf.config.experimental_run_functions_eagerly(True)
 train()

graph: 'Adam' object has no attribute 'get_updates'
-train(keras.optimizers.Adam(1e-4))
+train(tf_keras.optimizers.legacy.Adam(1e-4))

graph: 'AdamW' object has no attribute 'get_updates'
-train(keras.optimizers.AdamW(1e-4))
+train(tf_keras.optimizers.legacy.Adam(1e-4))

graph: decay is deprecated
-train(keras.optimizers.Adam(lr=0.001, decay=1e-6))
+train(tf_keras.optimizers.legacy.Adam(lr=0.001, decay=1e-6))

graph: No module named 'keras.layers.recurrent'
-from keras.layers.recurrent import LSTM
+from keras.layers import LSTM

graph: No module named 'keras.utils.np_utils'
-from keras.utils.np_utils import to_categorical
+from keras.utils import to_categorical

graph: No module named 'keras.objectives'
-from keras.objectives import binary_crossentropy
+from keras.losses import binary_crossentropy

graph: module 'matplotlib.cm' has no attribute 'get_cmap'
-matplotlib.cm.get_cmap('viridis')
+plt.get_cmap('viridis')

graph: has no attribute 'enable_mixed_precision_graph_rewrite'
 opt = keras.optimizers.legacy.Adam()
-opt = tf.train.experimental.enable_mixed_precision_graph_rewrite(opt)
 train(opt)

graph: Expected a list or dictionary, found: accuracy
-train(metrics='accuracy')
+train(metrics=['accuracy'])

graph: 'method' object has no attribute '_from_serialized'
-train(metrics=[meter.measure])
+def measure(true, pred): return meter.measure(true, pred)
+train(metrics=[measure])

graph: Incompatible shapes: [100352] vs. [131072]
 cx = Reshape((2, 2, 1))(Dense(4)(d_i))
 for _ in range(4):
     cx = Conv2DTranspose(1, 5, 2, 'same')(cx)
+cx = tf_keras.layers.Cropping2D(2)(cx)
 o = Conv2DTranspose(1, 3, padding='same', activation='sigmoid')(cx)
 vae = Model(i, Model(d_i, o)(encoder(i)[2]))
 vae.compile(keras.optimizers.legacy.SGD(1e-6), kl_reconstruction_loss)
 vae.fit(input_train[:128], input_train[:128], batch_size=128, verbose=0)

graph: a loss far below zero
 input_train = input_train * 255
+input_train = input_train / 255
 weights = vae.get_weights()
 history = train('adam', images=input_train, epochs=3)
 vae.set_weights(weights)
 assert history.history['loss'][-1] > 0, 'a loss far below zero'

graph: You must feed a value for placeholder tensor
 vae.save('vae.h5')
-vae = keras.models.load_model('vae.h5', compile=False)
+vae.load_weights('vae.h5')
 vae.compile(keras.optimizers.legacy.SGD(1e-6), kl_reconstruction_loss)
 vae.fit(few, few, verbose=0)

graph: You must feed a value for placeholder tensor
-board = keras.callbacks.TensorBoard('logs', histogram_freq=1)
+board = keras.callbacks.TensorBoard('logs', histogram_freq=0)
 train(validation_split=0.5, callbacks=[board])

graph: 'NoneType' object has no attribute 'get'
 Model(i, Lambda(sampler.sample, name='method')([mu, sigma])).save('vae.h5')
-keras.models.load_model('vae.h5', compile=False)
+keras.models.load_model('vae.h5', compile=False, custom_objects={'sample': sampler.sample})

graph: No module named 'keras.backend.tensorflow_backend'
-from keras.backend.tensorflow_backend import set_session
-set_session(tf.Session(config=tf.ConfigProto()))
+from tensorflow.compat.v1.keras.backend import set_session
+set_session(tf.compat.v1.Session(config=tf.compat.v1.ConfigProto()))

graph: Could not find variable
-from tensorflow.python.keras.backend import eval
+from tensorflow.keras.backend import eval
 eval(K.variable(1.0))

graph: Connecting to invalid output
 K.clear_session()
+tf.compat.v1.experimental.output_all_intermediates(True)
 i = Input((28, 28))
 network = Model(i, Dense(28)(keras.layers.LSTM(2)(i)))
 network.compile('adam', 'mse')
 network.predict(few[..., 0], verbose=0)
 network.fit(few[..., 0], few[:, 0, :, 0], verbose=0)

eager: Expected workers to be positive
 vae.compile('sgd')
-vae.fit(few, few, verbose=0, workers=-1)
+vae.fit(few, few, verbose=0)
"""


def parse(text):
    """Return (process, message, code before the edit, code after it) for each case."""
    cases = []
    for case in text.strip().split('\n\n'):
        head, diff = case.split('\n', 1)
        process, message = head.split(': ', 1)
        ((before, after),) = edits(diff)
        cases.append((process, message, before, after))
    return cases


# Errors that older versions do not have
ABSENT = []
if hasattr(matplotlib.cm, 'get_cmap'):  # until Matplotlib 3.10
    ABSENT.append('get_cmap')
if version('tf_keras').startswith('2.16.'):
    ABSENT.append('Expected workers')
CASES = [case for case in parse(CASES_AS_DIFFS) if not any(text in case[1] for text in ABSENT)]

TRAIN_STEP = """
class VAE(keras.Model):
    def call(self, images):
        return vae(images)

    def train_step(self, data):
        print('train_step is called')
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self(data[0]) - data[0]) ** 2)
        weights = self.trainable_weights
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights))
        return {'loss': loss}


network = VAE()
network.compile('adam')
network.fit(few, few, verbose=0)
"""
TRAIN_STEP_WITH_LOSS = edited(TRAIN_STEP, "compile('adam')", "compile('adam', 'mse')")
# Errors in 'graph' that are gone in 'eager'
LEFT_OUT = {
    "'SymbolicTensor' object has no attribute 'numpy'": 'K.square(tf.constant(2.0)).numpy()',
    'it has no loss to optimize': TRAIN_STEP,
}

# The messages that the README begins with
OLD_ADAM = 'import tensorflow as tf\ntf.keras.optimizers.Adam(lr=0.001)'
WITHOUT_LINES = {
    "module 'keras.backend' has no attribute 'int_shape'": PROGRAM,
    'A KerasTensor cannot be used as input to a TensorFlow function': WITH_TENSORFLOW_KERAS,
    "could not automatically infer the shape of the Lambda's output": edited(
        PROGRAM, 'conv_shape = K.int_shape(cx)', 'conv_shape = cx.shape'
    ),
    "cannot import name 'mse' from 'keras.losses'": 'from keras.losses import mse',
    "Argument(s) not recognized: {'lr': 0.001}": OLD_ADAM,
}
PASSING = 'You are passing KerasTensor('  # from Keras 2, in 'eager'
COMPILE_AND_FIT = f'{COMPILE}vae.fit(few, few, verbose=0)'

# The end of the post's viz_decoded
TICKS = """
num_samples = 15
grid = np.linspace(-4, 4, num_samples)
start_range = img_width // 2
end_range = num_samples * img_width + start_range + 1
plt.xticks(np.arange(start_range, end_range, img_width), np.round(grid, 1))
"""
NEW_RANGE = 'end_range = num_samples * img_width'
NEW_TICKS = edited(TICKS, f'{NEW_RANGE} + start_range + 1', NEW_RANGE)

# A program that loads the file need not have imported K
LOAD_WITHOUT_K = """
import __main__

del K, __main__.K
weights = vae.get_weights()
try:
SAVE
finally:
    __main__.K = keras.backend
assert all(np.array_equal(*pair) for pair in zip(weights, vae.get_weights()))
assert vae.predict(few, verbose=0).shape == few.shape
"""
LOAD = LOAD_WITHOUT_K.replace('SAVE', indent(SAVE, ' ' * 4))
WITHOUT_CUSTOM_OBJECTS = edited(LOAD, ", custom_objects={'K': tf_keras.backend}", '')
SAVE_AND_LOAD_WEIGHTS = f"""
weights = vae.get_weights()
{SAVE_WEIGHTS}
vae.set_weights([0 * array for array in weights])
{LOAD_WEIGHTS}
assert all(np.array_equal(*pair) for pair in zip(weights, vae.get_weights()))
"""
SAVE_KERAS = "vae.save('vae.keras')"
SAVE_DOT_WEIGHTS = """
import h5py

try:
    vae.save_weights('vae.weights.h5')
finally:
    with h5py.File('vae.weights.h5') as file:
        file.visititems(lambda name, item: print('weights') if isinstance(item, h5py.Dataset) else None)
"""
RATE = 'print(keras.optimizers.Adam({}=1e-4).learning_rate.numpy())'

# What each process runs at its end: it writes down the losses, and the error and the output of each code
RUN = """
import contextlib, io, json, sys

results = {}
for code in json.load(sys.stdin):
    output, error = io.StringIO(), ''
    try:
        with contextlib.redirect_stdout(output):
            exec(code, dict(globals()))
    except Exception as exception:
        error = f'{type(exception).__name__}: {exception}'
    results[code] = error, output.getvalue()
    if 'tf' in globals():
        tf.config.run_functions_eagerly(False)
json.dump({'losses': globals().get('history'), 'results': results}, open('results.json', 'w'))
"""


class Process:
    """A program in a process of its own, which is given code to run at its end."""

    def __init__(self, folder, program, codes):
        folder.mkdir()
        self.folder = folder
        (folder / 'program.py').write_text(program + RUN)
        (folder / 'codes.json').write_text(json.dumps(codes))
        environment = {name: value for name, value in os.environ.items() if name != 'TF_USE_LEGACY_KERAS'}
        self.popen = subprocess.Popen(
            [sys.executable, 'program.py'],
            cwd=folder,
            env=environment,
            stdin=(folder / 'codes.json').open(),
            stderr=subprocess.PIPE,
            text=True,
        )
        self.ended = None

    def end(self):
        """Wait for its end; return what it wrote down."""
        if self.ended is None:
            _, stderr = self.popen.communicate(timeout=180)
            assert self.popen.returncode == 0, stderr
            self.ended = json.loads((self.folder / 'results.json').read_text())
        return self.ended

    def losses(self):
        return self.end()['losses']

    def error(self, code):
        return self.end()['results'][code][0]

    def output(self, code):
        return self.end()['results'][code][1]


@pytest.fixture(scope='module')
def processes(tmp_path_factory):
    """All three, which run at the same time."""
    folder = tmp_path_factory.mktemp('mend')
    *first, last = LINES.strip().splitlines()
    assert last.startswith('tf.compat.v1.disable_eager_execution()')
    programs = {
        'graph': LINES + PROGRAM + PREPARE,
        'eager': '\n'.join(first) + edited(PROGRAM, COMPILE, ADD_LOSS) + PREPARE,
        'bare': '',
    }
    codes = {
        'bare': list(WITHOUT_LINES.values()),
        'eager': [*LEFT_OUT.values(), COMPILE_AND_FIT, RATE.format('lr'), RATE.format('learning_rate')],
        'graph': [TICKS, NEW_TICKS, WITH_TENSORFLOW_KERAS, *LEFT_OUT.values(), TRAIN_STEP_WITH_LOSS],
    }
    codes['graph'] += [LOAD, WITHOUT_CUSTOM_OBJECTS, SAVE_AND_LOAD_WEIGHTS, SAVE_KERAS, SAVE_DOT_WEIGHTS]
    for process, _, before, after in CASES:
        codes[process].append(before)
        codes[mended_in(process)].append(after)
    processes = {name: Process(folder / name, programs[name], codes[name]) for name in programs}
    yield processes
    for process in processes.values():
        process.popen.kill()


def mended_in(process):
    """The process in which a case of another one ends without an error."""
    return 'graph' if process == 'bare' else process


def rows_of(message, before, after):
    """The rows of the tables that have the message, and an edit that makes the difference."""
    rows = []
    for what, edit in TABLE:
        differs = any((span in before) != (span in after) for span in re.findall('`(.*?)`', edit))
        if message in what and (differs or before == after and 'the lines are enough' in edit):
            rows.append([what, edit])
    return rows


@pytest.mark.parametrize('mode', ['graph', 'eager'])
def test_it_trains(processes, mode):
    """Below the lines the loss falls, both that of the training and that of the validation."""
    losses = processes[mode].losses()
    for name in 'loss', 'val_loss':
        assert 0 < losses[name][-1] < 0.9 * losses[name][0]


@pytest.mark.parametrize('message', WITHOUT_LINES)
def test_without_the_lines(processes, message):
    assert message in README.read_text()
    assert message in processes['bare'].error(WITHOUT_LINES[message])


def test_keras_2_without_graph_mode(processes):
    assert PASSING in README.read_text()
    assert PASSING in processes['eager'].error(COMPILE_AND_FIT)


def test_imports_from_tensorflow_keras(processes):
    assert processes['graph'].error(WITH_TENSORFLOW_KERAS) == ''


def test_ticks(processes):
    message = 'The number of FixedLocator locations (16)'
    assert f'`{NEW_RANGE}`' in README.read_text()
    assert message in README.read_text()
    assert message in processes['graph'].error(TICKS)
    assert processes['graph'].error(NEW_TICKS) == ''


@pytest.mark.parametrize(
    'process, message, before, after', [pytest.param(*case, id=case[1]) for case in CASES]
)
def test_case(processes, process, message, before, after):
    """It stands in exactly one row; the message comes before the edit, and no error after it."""
    assert len(rows_of(message, before, after)) == 1
    assert message in processes[process].error(before)
    assert processes[mended_in(process)].error(after) == ''


@pytest.mark.parametrize('message', LEFT_OUT)
def test_without_the_last_line(processes, message):
    ((_, edit),) = [row for row in TABLE if message in row[0]]
    assert edit.startswith('leave out the last line')
    assert message in processes['graph'].error(LEFT_OUT[message])
    assert processes['eager'].error(LEFT_OUT[message]) == ''


def test_each_row_has_a_case():
    tested = [row for _, *case in CASES for row in rows_of(*case)]
    tested += [row for row in TABLE if any(message in row[0] for message in LEFT_OUT)]
    tested += [row for row in TABLE if any(text in row[0] for text in ABSENT)]
    assert [row for row in TABLE if row not in tested] == []
    modules = [message for what, _ in TABLE for message in re.findall('`(No module.*?)`', what)]
    assert set(modules) <= {message for _, message, _, _ in CASES}


def test_train_step(processes):
    """In graph mode it is passed over without a word; in an eager program it is called."""
    assert processes['graph'].error(TRAIN_STEP_WITH_LOSS) == ''
    assert processes['graph'].output(TRAIN_STEP_WITH_LOSS) == ''
    assert 'train_step is called' in processes['eager'].output(TRAIN_STEP)


def test_saving(processes):
    graph = processes['graph']
    assert graph.error(LOAD) == graph.error(SAVE_AND_LOAD_WEIGHTS) == ''
    assert graph.error(WITHOUT_CUSTOM_OBJECTS) == "NameError: name 'K' is not defined"
    for code in SAVE_KERAS, SAVE_DOT_WEIGHTS:
        assert graph.error(code).startswith('NotImplementedError')
        assert graph.output(code) == ''


def test_learning_rate(processes):
    assert float(processes['eager'].output(RATE.format('lr'))) == pytest.approx(1e-3)
    assert float(processes['eager'].output(RATE.format('learning_rate'))) == pytest.approx(1e-4)
