"""The README's 'Mend your own copy': its lines, and each row of its table, before and after the edit.

A program that does what the post's does, in other words, runs in processes of its own: below the lines, below
the lines for programs that stay eager, and without any. The rows are tried at the end of the first one.
"""

import json
import os
import re
import subprocess
import sys
from textwrap import indent

import pytest

from helpers import MNIST, README, code_blocks, table

HEADING = 'Mend your own copy'
LINES, SAVE, ADD_LOSS = code_blocks(README, HEADING, 'python')
TABLE = table(README, HEADING)

POST = f"""
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
x = Reshape(conv_shape[1:])(Dense(np.prod(conv_shape[1:]), 'relu')(d_i))
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
VIZ_DECODED
"""

VIZ_DECODED = """
num_samples = 15
grid = np.linspace(-4, 4, num_samples)
digits = decoder.predict(np.stack(np.meshgrid(grid, -grid), axis=-1).reshape(-1, 2), verbose=0)
plt.imshow(digits.reshape(15, 15, 28, 28).swapaxes(1, 2).reshape(420, 420))
start_range = img_width // 2
end_range = num_samples * img_width + start_range + 1
plt.xticks(np.arange(start_range, end_range, img_width), np.round(grid, 1))
"""

COMPILE = "vae.compile(optimizer='adam', loss=kl_reconstruction_loss)"

# Where the optimizer does not matter: SGD makes a smaller graph than Adam
COMPILE_SGD = COMPILE.replace("'adam'", 'keras.optimizers.legacy.SGD(1e-6)')
FIT = 'vae.fit(few, few, verbose=0)'

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
network.compile(LOSS)
network.fit(few, few, verbose=0)
"""

# Text in the first cell of a row: programs, each with what the edit replaces in it. The first program shows
# the first message that the cell quotes, and takes the first edit, the second the second
CASES = {
    'AssertionError': [
        (f'{line}\n{COMPILE_SGD}\n{FIT}', line)
        for line in (
            'tf.config.run_functions_eagerly(True)',
            'tf.config.experimental_run_functions_eagerly(True)',
        )
    ],
    'FixedLocator': [(VIZ_DECODED, 'end_range = num_samples * img_width + start_range + 1')],
    'get_updates': [
        (
            f'vae.compile(keras.optimizers.Adam(lr=0.001), kl_reconstruction_loss)\n{FIT}',
            'keras.optimizers.Adam',
        ),
        ('keras.optimizers.Adam(lr=0.001, decay=1e-6)', 'keras.optimizers.Adam'),
    ],
    'keras.layers.recurrent': [
        (line, line)
        for line in (
            'from keras.layers.recurrent import LSTM',
            'from keras.utils.np_utils import to_categorical',
            'from keras.objectives import binary_crossentropy',
        )
    ],
    # Its decoder doubles 2 pixels to 32. A batch of 128 has the message's numbers
    'Incompatible shapes': [
        (
            'cx = Reshape((2, 2, 1))(Dense(4)(d_i))\n'
            "for _ in range(4): cx = Conv2DTranspose(1, 5, 2, 'same')(cx)\n"
            '# below the last of its layers\n'
            "o = Conv2DTranspose(1, 3, padding='same', activation='sigmoid')(cx)\n"
            'vae = Model(i, Model(d_i, o)(encoder(i)[2]))\n'
            f'{COMPILE_SGD}\n'
            'vae.fit(input_train[:128], input_train[:128], batch_size=128, verbose=0)',
            '# below the last of its layers',
        ),
    ],
    'found: accuracy': [
        (f"{COMPILE_SGD[:-1]}, metrics='accuracy')\n{FIT}", "metrics='accuracy'"),
    ],
    'load_model': [
        (
            "vae.save('vae.h5')\n"
            "vae = keras.models.load_model('vae.h5', compile=False)\n"
            f'{COMPILE_SGD}\n{FIT}',
            "vae = keras.models.load_model('vae.h5', compile=False)",
        ),
    ],
    'TensorBoard': [
        (
            f'{COMPILE_SGD}\n'
            "board = keras.callbacks.TensorBoard('logs', histogram_freq=1)\n"
            'vae.fit(few, few, verbose=0, validation_split=0.5, callbacks=[board])',
            'histogram_freq=1',
        ),
    ],
    'a negative loss': [
        (
            'input_train = input_train * 255\n# not scaled\n'
            f'{COMPILE}\n'
            'weights = vae.get_weights()\n'
            'history = vae.fit(input_train, input_train, epochs=3, verbose=0).history\n'
            'vae.set_weights(weights)\n'
            "assert history['loss'][-1] > 0, 'a negative loss'",
            '# not scaled',
        ),
    ],
    # After the edit it is an eager program, and runs below
    'train_step': [(TRAIN_STEP.replace('LOSS', "'adam'"), None)],
    # The last, since nothing in the same graph can be trained after this error
    'LSTM': [
        (
            'K.clear_session()\n# at the top\n'
            'i = Input((28, 28))\n'
            'network = Model(i, Dense(28)(keras.layers.LSTM(2)(i)))\n'
            "network.compile('adam', 'mse')\n"
            'network.predict(few[..., 0], verbose=0)\n'
            'network.fit(few[..., 0], few[:, 0, :, 0], verbose=0)',
            '# at the top',
        ),
    ],
}

# At the end of the program: runs what it is given, and writes the error of each, or none
RUN = """
import contextlib, io, json, sys

results = []
for code in json.loads(sys.stdin.read()):
    output, error = io.StringIO(), ''
    try:
        with contextlib.redirect_stdout(output):
            exec(code, dict(globals()))
    except Exception as exception:
        error = f'{type(exception).__name__}: {exception}'
    results.append([error, output.getvalue()])
    tf.config.run_functions_eagerly(False)
json.dump([history, results], open('results.json', 'w'))
"""

# A program that loads the file need not have imported K
LOAD = """
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

WITHOUT_WEIGHTS = """
import h5py

try:
    vae.save_weights('vae.weights.h5')
finally:
    with h5py.File('vae.weights.h5') as file:
        file.visititems(lambda name, item: print('weights') if isinstance(item, h5py.Dataset) else None)
"""


def spans(cell):
    """What stands in backticks in a cell, or the whole cell."""
    return re.findall('`(.*?)`', cell) or [cell]


def rows(key):
    """The rows of the table that have this text in their first cell."""
    return [row for row in TABLE if key in row[0]]


def edits():
    """(key, message, program before, program after) for each program of each row."""
    for key, programs in CASES.items():
        for number, (program, old) in enumerate(programs):
            ((cell, edit),) = rows(key)
            messages, news = spans(cell), spans(edit)
            new = '' if edit.startswith('delete') else news[min(number, len(news) - 1)]
            after = program.replace(old, new) if old else ''
            yield key, messages[min(number, len(messages) - 1)], program, after


class Process:
    """A program in a process of its own, which is given code to run at its end."""

    def __init__(self, folder, program, *codes):
        folder.mkdir()
        (folder / 'program.py').write_text(program.replace('VIZ_DECODED', mended(VIZ_DECODED)) + RUN)
        environment = dict(os.environ, MPLBACKEND='Agg', TF_CPP_MIN_LOG_LEVEL='3', TF_NUM_INTRAOP_THREADS='1')
        environment.pop('TF_USE_LEGACY_KERAS', None)
        self.folder = folder
        self.popen = subprocess.Popen(
            [sys.executable, 'program.py'],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        # Short enough for the pipe, so that nobody waits
        self.popen.stdin.write(json.dumps(codes))
        self.popen.stdin.close()
        self.popen.stdin = None

    def end(self):
        """Wait; return the exit status and what it wrote to standard error."""
        if self.popen.returncode is None:
            _, self.stderr = self.popen.communicate(timeout=180)
        return self.popen.returncode, self.stderr

    def results(self):
        """Its losses, and (error, output) of each code that it was given."""
        status, stderr = self.end()
        assert status == 0, stderr
        return json.loads((self.folder / 'results.json').read_text())


def mended(viz_decoded):
    """The grid with the table's edit, without which a program ends there."""
    ((program, old),) = CASES['FixedLocator']
    return program.replace(old, spans(rows('FixedLocator')[0][1])[0])


@pytest.fixture(scope='module')
def processes(tmp_path_factory):
    """All three, which run at the same time."""
    folder = tmp_path_factory.mktemp('mend')
    *first, last = LINES.strip().splitlines()
    assert last == 'tf.compat.v1.disable_eager_execution()'
    assert POST.count(COMPILE) == 1
    load = LOAD.replace('SAVE', indent(SAVE, ' ' * 4))
    graph_codes = [code for _, _, before, after in edits() for code in (before, after)]
    processes = {
        'graph': Process(
            folder / 'graph',
            LINES + POST,
            TRAIN_STEP.replace('LOSS', "'adam', 'mse'"),
            load,
            load.replace(", custom_objects={'K': tf_keras.backend}", ''),
            "vae.save('vae.keras')",
            WITHOUT_WEIGHTS,
            *graph_codes,
        ),
        'eager': Process(
            folder / 'eager',
            '\n'.join(first) + POST.replace(COMPILE, ADD_LOSS),
            TRAIN_STEP.replace('LOSS', "'adam'"),
            'print(float(keras.optimizers.Adam(lr=1e-4).learning_rate.numpy()))',
            'print(float(keras.optimizers.Adam(learning_rate=1e-4).learning_rate.numpy()))',
        ),
        'bare': Process(folder / 'bare', POST),
    }
    yield processes
    for process in processes.values():
        process.popen.kill()


def test_without_the_lines(processes):
    status, stderr = processes['bare'].end()
    assert status == 1
    assert "module 'keras.backend' has no attribute 'int_shape'" in stderr


@pytest.mark.parametrize('mode', ['graph', 'eager'])
def test_it_trains(processes, mode):
    """Below the lines the loss falls, both that of the training and that of the validation."""
    history, _ = processes[mode].results()
    for losses in history['loss'], history['val_loss']:
        assert 0 < losses[-1] < 0.9 * losses[0]


def test_each_row_has_a_case():
    found = [[key for key in CASES if key in row[0]] for row in TABLE]
    assert all(len(keys) == 1 for keys in found)
    assert sorted(key for keys in found for key in keys) == sorted(CASES)


@pytest.mark.parametrize('key', CASES)
def test_row(processes, key):
    """The message comes before the edit, and no error after it."""
    _, results = processes['graph'].results()
    for number, (name, message, _, after) in enumerate(edits()):
        if name == key:
            before_error, _ = results[2 * number + 5]
            assert message in before_error
            if after:
                assert results[2 * number + 6] == ['', '']


def test_train_step(processes):
    """In graph mode it is passed over without a word; in an eager program it is called."""
    _, results = processes['graph'].results()
    assert results[0] == ['', '']
    _, results = processes['eager'].results()
    error, output = results[0]
    assert error == ''
    assert 'train_step is called' in output


def test_saving(processes):
    _, results = processes['graph'].results()
    loaded, without_custom_objects, saved_keras, saved_weights = results[1:5]
    assert loaded == ['', '']
    assert without_custom_objects[0] == "NameError: name 'K' is not defined"
    for error, output in saved_keras, saved_weights:
        assert error.startswith('NotImplementedError')
        assert output == ''


def test_learning_rate(processes):
    _, (_, ignored, obeyed) = processes['eager'].results()
    assert float(ignored[1]) == pytest.approx(1e-3)
    assert float(obeyed[1]) == pytest.approx(1e-4)
