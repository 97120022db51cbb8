"""Programs with the post's code, mended as the README and 'More errors' say.

A program that does what the post's does, in other words, runs in three processes: without the lines of
the README ('bare'), below them ('graph'), and below them without the last one ('eager'). At its end,
each process runs further code, and writes down with what error it ended.

To add an error, add its row to the table in outputs/reference/post/README.md, and a triple to CASES.
"""

import json
import os
import re
import subprocess
import sys
from textwrap import indent

import matplotlib
import pytest

from helpers import ERRORS, MNIST, README, block, edited, table

LINES = block(README, "sys.modules['keras'] = tf_keras")
SAVE_WEIGHTS = block(ERRORS, "vae.save_weights('weights.h5')") + block(ERRORS, 'vae.load_weights')
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
WITH_TENSORFLOW_KERAS = PROGRAM.replace('import keras\n', 'from tensorflow import keras\n').replace(
    'from keras', 'from tensorflow.keras'
)
COMPILE = "vae.compile(optimizer='adam', loss=kl_reconstruction_loss)\n"

# The end of the post's viz_decoded
TICKS = """
num_samples = 15
grid = np.linspace(-4, 4, num_samples)
start_range = img_width // 2
end_range = num_samples * img_width + start_range + 1
plt.xticks(np.arange(start_range, end_range, img_width), np.round(grid, 1))
"""
NEW_TICKS = 'end_range = num_samples * img_width'

# For the cases, after the program
PREPARE = """
import matplotlib.cm


# SGD makes a smaller graph than Adam
def train(**settings):
    vae.compile(keras.optimizers.legacy.SGD(1e-6), kl_reconstruction_loss)
    vae.fit(few, few, verbose=0, **settings)


class Meter:
    def measure(self, true, pred):
        return K.mean(pred)


class Sampler:
    def sample(self, args):
        return sample_z(args)


meter, sampler = Meter(), Sampler()
board = keras.callbacks.TensorBoard
"""

BACKEND_SUM = """
from keras import backend as K
K.sum(K.constant([1.0]))
"""
PYTHON_KERAS_LAYER = """
from tensorflow.keras.layers import Input
from tensorflow.python.keras.layers import Dense
Dense(2)(Input((2,)))
"""
PYTHON_KERAS_BACKEND = """
from tensorflow.python.keras.backend import eval
eval(K.variable(1.0))
"""
SESSION = """
from keras.backend.tensorflow_backend import set_session
set_session(tf.Session(config=tf.ConfigProto()))
"""
NEW_SESSION = """
from tensorflow.compat.v1.keras.backend import set_session
set_session(tf.compat.v1.Session(config=tf.compat.v1.ConfigProto()))
"""
# A batch of the size in the message
CROP = """
cx = Reshape((2, 2, 1))(Dense(4)(d_i))
for _ in range(4):
    cx = Conv2DTranspose(1, 5, 2, 'same')(cx)
# crop
o = Conv2DTranspose(1, 3, padding='same', activation='sigmoid')(cx)
vae = Model(i, Model(d_i, o)(encoder(i)[2]))
vae.compile(keras.optimizers.legacy.SGD(1e-6), kl_reconstruction_loss)
vae.fit(input_train[:128], input_train[:128], batch_size=128, verbose=0)
"""
NOT_SCALED = """
input_train = input_train * 255
# scale
weights = vae.get_weights()
vae.compile('adam', kl_reconstruction_loss)
loss = vae.fit(input_train, input_train, epochs=3, verbose=0).history['loss'][-1]
vae.set_weights(weights)
assert loss > 0, 'a loss far below zero'
"""
LOAD_AND_TRAIN = """
vae.save('vae.h5')
vae = keras.models.load_model('vae.h5', compile=False)
vae.compile(keras.optimizers.legacy.SGD(1e-6), kl_reconstruction_loss)
vae.fit(few, few, verbose=0)
"""
TENSORBOARD = "train(validation_split=0.5, callbacks=[board('logs', histogram_freq=1)])"
LSTM = """
K.clear_session()
# all intermediates
i = Input((28, 28))
network = Model(i, Dense(28)(keras.layers.LSTM(2)(i)))
network.compile('adam', 'mse')
network.predict(few[..., 0], verbose=0)
network.fit(few[..., 0], few[:, 0, :, 0], verbose=0)
"""
LOAD_METHOD = """
Model(i, Lambda(sampler.sample, name='method')([mu, sigma])).save('method.h5')
keras.models.load_model('method.h5', compile=False)
"""
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

# For each process, (message, code that ends with it, the same code after the edit). Message and edit
# stand in a row of the README or of 'More errors'. 'graph' runs the edited code, also of 'bare'.
CASES = {
    'bare': [
        ("No module named 'keras.preprocessing.text'", 'import keras.preprocessing.text', None),
        ("module 'keras.backend' has no attribute 'sum'", BACKEND_SUM, None),
        (
            "'tuple' object has no attribute 'rank'",
            PYTHON_KERAS_LAYER,
            PYTHON_KERAS_LAYER.replace('from tensorflow.python.keras', 'from tensorflow.keras'),
        ),
    ],
    'graph': [
        (
            'AssertionError',
            'tf.config.experimental_run_functions_eagerly(True)\ntrain()',
            'train()',
        ),
        (
            "'Adam' object has no attribute 'get_updates'",
            'vae.compile(keras.optimizers.Adam(1e-4), kl_reconstruction_loss)\nvae.fit(few, few, verbose=0)',
            'import tf_keras\n'
            'vae.compile(tf_keras.optimizers.legacy.Adam(1e-4), kl_reconstruction_loss)\n'
            'vae.fit(few, few, verbose=0)',
        ),
        (
            "'AdamW' object has no attribute 'get_updates'",
            'vae.compile(keras.optimizers.AdamW(), kl_reconstruction_loss)\nvae.fit(few, few, verbose=0)',
            'vae.compile(keras.optimizers.legacy.Adam(), kl_reconstruction_loss)\n'
            'vae.fit(few, few, verbose=0)',
        ),
        (
            'decay is deprecated',
            'keras.optimizers.Adam(lr=0.001, decay=1e-6)',
            'keras.optimizers.legacy.Adam(lr=0.001, decay=1e-6)',
        ),
        (
            "No module named 'keras.layers.recurrent'",
            'from keras.layers.recurrent import LSTM',
            'from keras.layers import LSTM',
        ),
        (
            "No module named 'keras.utils.np_utils'",
            'from keras.utils.np_utils import to_categorical',
            'from keras.utils import to_categorical',
        ),
        (
            "No module named 'keras.objectives'",
            'from keras.objectives import binary_crossentropy',
            'from keras.losses import binary_crossentropy',
        ),
        (
            "has no attribute 'enable_mixed_precision_graph_rewrite'",
            'opt = keras.optimizers.legacy.Adam()\n'
            'opt = tf.train.experimental.enable_mixed_precision_graph_rewrite(opt)',
            'opt = keras.optimizers.legacy.Adam()\n',
        ),
        (
            'Expected a list or dictionary, found: accuracy',
            "vae.compile('sgd', 'mse', metrics='accuracy')",
            "vae.compile('sgd', 'mse', metrics=['accuracy'])",
        ),
        (
            "'method' object has no attribute '_from_serialized'",
            "vae.compile('sgd', 'mse', metrics=[meter.measure])\nvae.fit(few, few, verbose=0)",
            'def measure(true, pred): return meter.measure(true, pred)\n'
            "vae.compile('sgd', 'mse', metrics=[measure])\nvae.fit(few, few, verbose=0)",
        ),
        (
            'Incompatible shapes: [100352] vs. [131072]',
            CROP,
            CROP.replace('# crop', 'import tf_keras\ncx = tf_keras.layers.Cropping2D(2)(cx)'),
        ),
        (
            'a loss far below zero',
            NOT_SCALED,
            NOT_SCALED.replace('# scale', 'input_train = input_train / 255'),
        ),
        (
            'You must feed a value for placeholder tensor',
            LOAD_AND_TRAIN,
            LOAD_AND_TRAIN.replace(
                "vae = keras.models.load_model('vae.h5', compile=False)", "vae.load_weights('vae.h5')"
            ),
        ),
        (
            'You must feed a value for placeholder tensor',
            TENSORBOARD,
            TENSORBOARD.replace('histogram_freq=1', 'histogram_freq=0'),
        ),
        (
            "'NoneType' object has no attribute 'get'",
            LOAD_METHOD,
            LOAD_METHOD.replace('compile=False', "compile=False, custom_objects={'sample': sampler.sample}"),
        ),
        # The last three, since what they leave behind is in the way of others
        ("No module named 'keras.backend.tensorflow_backend'", SESSION, NEW_SESSION),
        (
            'Could not find variable',
            PYTHON_KERAS_BACKEND,
            PYTHON_KERAS_BACKEND.replace('from tensorflow.python.keras', 'from tensorflow.keras'),
        ),
        (
            'Connecting to invalid output',
            LSTM,
            LSTM.replace('# all intermediates', 'tf.compat.v1.experimental.output_all_intermediates(True)'),
        ),
    ],
    'eager': [
        (
            'Expected workers to be positive',
            "vae.compile('sgd')\nvae.fit(few, few, verbose=0, workers=-1)",
            "vae.compile('sgd')\nvae.fit(few, few, verbose=0)",
        ),
    ],
}
if not hasattr(matplotlib.cm, 'get_cmap'):  # Matplotlib 3.10 and older have it
    CASES['graph'].insert(
        0,
        (
            "module 'matplotlib.cm' has no attribute 'get_cmap'",
            "matplotlib.cm.get_cmap('viridis')",
            "plt.get_cmap('viridis')",
        ),
    )
# Errors in 'graph' that are gone in 'eager'
LEFT_OUT = [
    ("'SymbolicTensor' object has no attribute 'numpy'", 'K.square(tf.constant(2.0)).numpy()'),
    ('it has no loss to optimize', TRAIN_STEP),
]

# The messages that the README begins with
WITHOUT_LINES = [
    ("module 'keras.backend' has no attribute 'int_shape'", PROGRAM),
    ('A KerasTensor cannot be used as input to a TensorFlow function', WITH_TENSORFLOW_KERAS),
    (
        "could not automatically infer the shape of the Lambda's output",
        edited(PROGRAM, 'conv_shape = K.int_shape(cx)', 'conv_shape = cx.shape'),
    ),
    ("cannot import name 'mse' from 'keras.losses'", 'from keras.losses import mse'),
]
PASSING = ('You are passing KerasTensor(', f'{COMPILE}vae.fit(few, few, verbose=0)')

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
LOAD_WEIGHTS = edited(
    f"""
weights = vae.get_weights()
{SAVE_WEIGHTS}
assert all(np.array_equal(*pair) for pair in zip(weights, vae.get_weights()))
""",
    'vae.load_weights',
    'vae.set_weights([0 * array for array in weights])\nvae.load_weights',
)
SAVE_KERAS = "vae.save('vae.keras')"
SAVE_DOT_WEIGHTS = """
import h5py

try:
    vae.save_weights('vae.weights.h5')
finally:
    with h5py.File('vae.weights.h5') as file:
        file.visititems(lambda name, item: print('weights') if isinstance(item, h5py.Dataset) else None)
"""
TRAIN_STEP_WITH_LOSS = edited(TRAIN_STEP, "compile('adam')", "compile('adam', 'mse')")
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
    eager_program = '\n'.join(first) + edited(PROGRAM, COMPILE, ADD_LOSS) + PREPARE
    bare = [before for _, before, _ in CASES['bare']] + [program for _, program in WITHOUT_LINES]
    graph = [TICKS, new_ticks(), WITH_TENSORFLOW_KERAS, TRAIN_STEP_WITH_LOSS]
    graph += [LOAD, WITHOUT_CUSTOM_OBJECTS, LOAD_WEIGHTS, SAVE_KERAS, SAVE_DOT_WEIGHTS]
    graph += [code for _, code in LEFT_OUT]
    graph += [after or before for _, before, after in CASES['bare']]
    graph += [code for _, before, after in CASES['graph'] for code in (before, after)]
    eager = [code for _, code in LEFT_OUT] + [PASSING[1], RATE.format('lr'), RATE.format('learning_rate')]
    eager += [code for _, before, after in CASES['eager'] for code in (before, after)]
    processes = {
        'graph': Process(folder / 'graph', LINES + PROGRAM + PREPARE, graph),
        'eager': Process(folder / 'eager', eager_program, eager),
        'bare': Process(folder / 'bare', '', bare),
    }
    yield processes
    for process in processes.values():
        process.popen.kill()


def new_ticks():
    line = 'end_range = num_samples * img_width + start_range + 1'
    return edited(TICKS, line, NEW_TICKS)


def rows_of(message, before, after):
    """The rows of the tables that have the message, and an edit that makes the difference."""
    rows = []
    for what, edit in TABLE:
        spans = re.findall('`(.*?)`', edit)
        if after is None:
            fits = 'the lines are enough' in edit
        else:
            fits = any((span in before) != (span in after) for span in spans)
        if message in what and fits:
            rows.append((what, edit))
    return rows


@pytest.mark.parametrize('mode', ['graph', 'eager'])
def test_it_trains(processes, mode):
    """Below the lines the loss falls, both that of the training and that of the validation."""
    losses = processes[mode].losses()
    for name in 'loss', 'val_loss':
        assert 0 < losses[name][-1] < 0.9 * losses[name][0]


@pytest.mark.parametrize('message, program', WITHOUT_LINES, ids=[message for message, _ in WITHOUT_LINES])
def test_without_the_lines(processes, message, program):
    assert message in README.read_text()
    assert message in processes['bare'].error(program)


def test_keras_2_without_graph_mode(processes):
    message, code = PASSING
    assert message in README.read_text()
    assert message in processes['eager'].error(code)


def test_imports_from_tensorflow_keras(processes):
    assert processes['graph'].error(WITH_TENSORFLOW_KERAS) == ''


def test_ticks(processes):
    assert f'`{NEW_TICKS}`' in README.read_text()
    assert 'The number of FixedLocator locations (16)' in README.read_text()
    assert 'The number of FixedLocator locations (16)' in processes['graph'].error(TICKS)
    assert processes['graph'].error(new_ticks()) == ''


@pytest.mark.parametrize(
    'mode, message, before, after',
    [pytest.param(mode, *case, id=case[0]) for mode in CASES for case in CASES[mode]],
)
def test_case(processes, mode, message, before, after):
    """It stands in exactly one row; the message comes before the edit, and no error after it."""
    assert len(rows_of(message, before, after)) == 1
    assert message in processes[mode].error(before)
    fixed = processes['eager' if mode == 'eager' else 'graph']
    assert fixed.error(after or before) == ''


@pytest.mark.parametrize('message, code', LEFT_OUT, ids=[message for message, _ in LEFT_OUT])
def test_without_the_last_line(processes, message, code):
    ((_, edit),) = [row for row in TABLE if message in row[0]]
    assert edit.startswith('leave out the last line')
    assert message in processes['graph'].error(code)
    assert processes['eager'].error(code) == ''


def test_each_row_has_a_case():
    rows = [row for cases in CASES.values() for case in cases for row in rows_of(*case)]
    without_case = [what for what, edit in TABLE if (what, edit) not in rows]
    expected = [what for what, edit in TABLE if edit.startswith('leave out the last line')]
    if hasattr(matplotlib.cm, 'get_cmap'):
        expected += [what for what, _ in TABLE if 'get_cmap' in what]
    assert sorted(without_case) == sorted(expected)


def test_train_step(processes):
    """In graph mode it is passed over without a word; in an eager program it is called."""
    assert processes['graph'].error(TRAIN_STEP_WITH_LOSS) == ''
    assert processes['graph'].output(TRAIN_STEP_WITH_LOSS) == ''
    assert 'train_step is called' in processes['eager'].output(TRAIN_STEP)


def test_saving(processes):
    graph = processes['graph']
    assert graph.error(LOAD) == graph.error(LOAD_WEIGHTS) == ''
    assert graph.error(WITHOUT_CUSTOM_OBJECTS) == "NameError: name 'K' is not defined"
    for code in SAVE_KERAS, SAVE_DOT_WEIGHTS:
        assert graph.error(code).startswith('NotImplementedError')
        assert graph.output(code) == ''


def test_learning_rate(processes):
    assert float(processes['eager'].output(RATE.format('lr'))) == pytest.approx(1e-3)
    assert float(processes['eager'].output(RATE.format('learning_rate'))) == pytest.approx(1e-4)
