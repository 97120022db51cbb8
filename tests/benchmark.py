"""Time an epoch of the page beside an epoch of the post's way, of Keras 3 and of PyTorch.

All train the same network on the same digits in batches of 128: an epoch is 48,000 digits, and 12,000
to validate with. Each has a process of its own, and one works while the others wait. The first round
warms up and does not count. From round to round another one begins, so that none always comes first.
In the last round, all must come to the same loss, to within 5%.

- 'this script' runs the cells of the page as a notebook does, and then its training cell for each
  epoch, with no_epochs = 1 and verbosity = 0. So its time includes the three callbacks, and that the
  saved weights are read back, which a whole training does only once.
- "the post's way" is the same network, with the post's two calls of the encoder, and no callbacks.
- 'Keras 3' has a train_step of its own, on TensorFlow, and is compiled with its default,
  jit_compile='auto'. Where there is only a CPU, this means without XLA (Keras 3.15). oneDNN then
  computes the convolutions, as in the page. 'Keras 3, XLA' has jit_compile=True, and its convolutions
  are not oneDNN's.
- 'PyTorch' takes part if it is installed, and its torch.compile if there is a C++ compiler too.
- 'the post itself' takes part with --post COMMAND, which runs the post's listing in the environment of
  its time (see outputs/reference/post/README.md). It is stopped while the others work, and its
  progress bar tells when an epoch ends.
- --page FILE adds another version of the page, run as 'this script' is.

A smoke run is `--rounds 1`. What the pages write goes into a temporary folder.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import multiprocessing
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
MNIST = HERE / 'data' / 'mnist.npz'
BATCH = 128

# The two cells in which the post's way differs from the page
POSTS_VAE = """
vae = Model(i, decoder(encoder(i)[2]))
vae_mu, vae_sigma = mu, sigma  # which kl_reconstruction_loss reads
vae.compile(optimizer='adam', loss=kl_reconstruction_loss)
"""
POSTS_FIT = """
vae.fit(
    input_train,
    input_train,
    epochs=no_epochs,
    batch_size=batch_size,
    verbose=verbosity,
    validation_split=validation_split,
)
"""


class Page:
    """A page, whose cells up to the training are run in the current folder."""

    def __init__(self, file):
        import jupytext

        Path('tests/data').mkdir(parents=True)
        Path('tests/data/mnist.npz').symlink_to(MNIST)
        cells = [cell.source for cell in jupytext.read(file).cells if cell.cell_type == 'code']
        (fit,) = [number for number, cell in enumerate(cells) if 'vae.fit(' in cell]
        self.names = {'__name__': '__main__'}
        for cell in cells[:fit]:
            exec(cell, self.names)
        self.names.update(no_epochs=1, verbosity=0)
        self.fit = cells[fit]

    def epoch(self):
        exec(self.fit, self.names)
        return self.names['vae'].history.history['loss'][0]


class PostsWay(Page):
    """The page, with the post's two calls of the encoder, and without callbacks."""

    def __init__(self, file):
        super().__init__(file)
        exec(POSTS_VAE, self.names)
        self.fit = POSTS_FIT


class PostItself:
    """The post's listing in its own environment, whose processes are stopped except during its turns."""

    def __init__(self, command):
        self.process = subprocess.Popen(
            shlex.split(command),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Signals reach what the command starts, too. If the benchmark is killed, the system sends
            # SIGHUP to this group if it is stopped.
            process_group=0,
        )
        self.send(signal.SIGSTOP)

    def send(self, number):
        os.killpg(self.process.pid, number)

    def epoch(self):
        self.send(signal.SIGCONT)
        text = b''
        while not (losses := re.search(rb'- loss: (\S+) - val_loss: \S+\n', text)):
            more = self.process.stdout.read1(4096)
            if not more:
                last_words = text.decode(errors='replace')
                sys.exit(f"error: the post's process has ended; its last words:\n{last_words}")
            text = text[-2000:] + more
        self.send(signal.SIGSTOP)
        return float(losses[1])

    def end(self):
        self.send(signal.SIGKILL)
        self.process.wait()


def digits():
    with np.load(MNIST) as arrays:
        return (arrays['x_train'] / np.float32(255))[..., np.newaxis]


class Keras3:
    """Keras 3 on TensorFlow, with a train_step of its own as in keras.io's example."""

    def __init__(self, jit_compile='auto'):
        os.environ['KERAS_BACKEND'] = 'tensorflow'
        os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '1')  # as the page does
        import keras
        import tensorflow as tf
        from keras import layers, ops

        self.images = digits()

        class Sampling(layers.Layer):
            def __init__(self, **settings):
                super().__init__(**settings)
                self.generator = keras.random.SeedGenerator(1)

            def call(self, inputs):
                mu, sigma = inputs
                return mu + ops.exp(sigma / 2) * keras.random.normal(ops.shape(mu), seed=self.generator)

        def block(layer, x):
            return layers.BatchNormalization()(layer(x))

        same = dict(strides=2, padding='same', activation='relu')
        i = keras.Input((28, 28, 1))
        x = block(layers.Conv2D(16, 3, **same), block(layers.Conv2D(8, 3, **same), i))
        x = block(layers.Dense(20, activation='relu'), layers.Flatten()(x))
        mu, sigma = layers.Dense(2)(x), layers.Dense(2)(x)
        self.encoder = keras.Model(i, [mu, sigma, Sampling()([mu, sigma])])
        d_i = keras.Input((2,))
        x = layers.Reshape((7, 7, 16))(block(layers.Dense(784, activation='relu'), d_i))
        x = block(layers.Conv2DTranspose(8, 3, **same), block(layers.Conv2DTranspose(16, 3, **same), x))
        self.decoder = keras.Model(d_i, layers.Conv2DTranspose(1, 3, padding='same', activation='sigmoid')(x))

        class VAE(keras.Model):
            def __init__(self, encoder, decoder):
                super().__init__()
                self.encoder, self.decoder = encoder, decoder
                self.tracker = keras.metrics.Mean(name='loss')

            @property
            def metrics(self):
                return [self.tracker]

            def loss_of(self, data, training):
                data = data[0] if isinstance(data, tuple) else data
                mu, sigma, z = self.encoder(data, training=training)
                pred = self.decoder(z, training=training)
                reconstruction = ops.sum(keras.losses.binary_crossentropy(data, pred), axis=(1, 2))
                kl = ops.sum(-0.5 * (1 + sigma - ops.square(mu) - ops.exp(sigma)), axis=1)
                return ops.mean(reconstruction + kl)

            def track(self, loss):
                self.tracker.update_state(loss)
                return {'loss': self.tracker.result()}

            def train_step(self, data):
                with tf.GradientTape() as tape:
                    loss = self.loss_of(data, training=True)
                gradients = tape.gradient(loss, self.trainable_weights)
                self.optimizer.apply_gradients(zip(gradients, self.trainable_weights))
                return self.track(loss)

            def test_step(self, data):
                return self.track(self.loss_of(data, training=False))

        self.vae = VAE(self.encoder, self.decoder)
        self.vae.compile(optimizer='adam', jit_compile=jit_compile)

    def epoch(self):
        return self.vae.fit(
            self.images[:48000],
            epochs=1,
            batch_size=BATCH,
            verbose=0,
            validation_data=(self.images[48000:],),
        ).history['loss'][0]


class Torch:
    """PyTorch, eager, in its default layout; paddings, epsilon and momentum as Keras has them."""

    def __init__(self):
        import torch
        from torch import nn
        from torch.nn import functional as F

        self.torch = torch
        self.images = torch.from_numpy(digits()).permute(0, 3, 1, 2).contiguous()

        class VAE(nn.Module):
            def __init__(self):
                super().__init__()
                self.convolutions = nn.ModuleList(
                    [
                        nn.Conv2d(1, 8, 3, 2),
                        nn.Conv2d(8, 16, 3, 2),
                        nn.ConvTranspose2d(16, 16, 3, 2),
                        nn.ConvTranspose2d(16, 8, 3, 2),
                        nn.ConvTranspose2d(8, 1, 3, 1, padding=1),
                    ]
                )
                self.dense = nn.ModuleList(
                    [nn.Linear(784, 20), nn.Linear(20, 2), nn.Linear(20, 2), nn.Linear(2, 784)]
                )
                norms = [
                    nn.BatchNorm2d(8),
                    nn.BatchNorm2d(16),
                    nn.BatchNorm1d(20),
                    nn.BatchNorm1d(784),
                    nn.BatchNorm2d(16),
                    nn.BatchNorm2d(8),
                ]
                for norm in norms:
                    norm.eps, norm.momentum = 1e-3, 0.01
                self.norms = nn.ModuleList(norms)

            def forward(self, true):
                x = true
                for k in (0, 1):
                    x = self.norms[k](F.relu(self.convolutions[k](F.pad(x, (0, 1, 0, 1)))))
                x = self.norms[2](F.relu(self.dense[0](x.permute(0, 2, 3, 1).flatten(1))))
                mu, sigma = self.dense[1](x), self.dense[2](x)
                z = mu + torch.exp(sigma / 2) * torch.randn_like(mu)
                x = self.norms[3](F.relu(self.dense[3](z))).view(-1, 7, 7, 16).permute(0, 3, 1, 2)
                for k in (2, 3):
                    x = self.norms[k + 2](F.relu(self.convolutions[k](x)[..., :-1, :-1]))
                logits = self.convolutions[4](x)
                crossentropy = F.binary_cross_entropy_with_logits(logits, true, reduction='sum')
                kl = -0.5 * (1 + sigma - mu.square() - sigma.exp()).sum(1).mean()
                return crossentropy / len(true) + kl

        self.vae = VAE()
        self.optimizer = torch.optim.Adam(self.vae.parameters(), eps=1e-7)

    def train(self, true):
        self.optimizer.zero_grad()
        loss = self.vae(true)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def epoch(self):
        self.vae.train()
        batches = self.torch.randperm(48000).split(BATCH)
        losses = [self.train(self.images[batch]) for batch in batches]
        self.vae.eval()
        with self.torch.no_grad():
            for batch in self.images[48000:].split(BATCH):
                self.vae(batch).item()
        return np.mean(losses)


class CompiledTorch(Torch):
    """PyTorch with torch.compile."""

    def __init__(self):
        super().__init__()
        self.vae.compile()


class Worker:
    """A process in which a contender works."""

    def __init__(self, contender, folder):
        self.pool = ProcessPoolExecutor(1, multiprocessing.get_context('spawn'))
        self.pool.submit(begin, contender, folder).result()

    def epoch(self):
        return self.pool.submit(work).result()


def begin(contender, folder):
    """Make this process's contender, in a new folder."""
    global at_work
    # Only the benchmark itself obeys Ctrl-C
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The page prints summaries, and TensorFlow messages; exceptions come through the pool
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    folder.mkdir()
    os.chdir(folder)
    at_work = contender()


def work():
    return at_work.epoch()


def end_workers():
    for process in multiprocessing.active_children():
        process.terminate()
        process.join()


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--rounds', type=int, default=5, help='default: 5')
    parser.add_argument(
        '--post', metavar='COMMAND', help="as in 'post/bin/python post.py'; needs Python 3.11"
    )
    parser.add_argument(
        '--page', metavar='FILE', action='append', default=[], help='may be given several times'
    )
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error('--rounds must be at least 1')
    return arguments


def choose_contenders(pages):
    """Return the contenders that need a worker, each as a function that makes it."""
    script = HERE.parent / 'variational_autoencoder.py'
    contenders = {'this script': partial(Page, script)}
    for page in pages:
        contenders[page] = partial(Page, Path(page).resolve())
    contenders["the post's way"] = partial(PostsWay, script)
    contenders['Keras 3'] = Keras3
    contenders['Keras 3, XLA'] = partial(Keras3, jit_compile=True)
    if importlib.util.find_spec('torch'):
        contenders['PyTorch'] = Torch
        if shutil.which('g++'):
            contenders['PyTorch, torch.compile'] = CompiledTorch
    return contenders


def run_rounds(contenders, rounds):
    """Return a loss and a number of seconds for each counted round, as two dictionaries of lists."""
    names = list(contenders)
    losses = {name: [] for name in names}
    seconds = {name: [] for name in names}
    for number in range(rounds + 1):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            print(f'round {number} of {rounds}: {name}', end='', file=sys.stderr, flush=True)
            began = time.perf_counter()
            loss = contenders[name].epoch()
            duration = time.perf_counter() - began
            print(f', {duration:.2f} s', file=sys.stderr)
            if number > 0:
                losses[name].append(loss)
                seconds[name].append(duration)
    return losses, seconds


def print_table(losses, seconds):
    packages = ['tensorflow', 'tf_keras', 'keras', 'numpy']
    if 'PyTorch' in losses:
        packages.append('torch')
    versions = [f'{package} {importlib.metadata.version(package)}' for package in packages]
    print(f'{platform.machine()}, {os.cpu_count()} cores; Python {platform.python_version()}')
    print(', '.join(versions))
    print(f'\n{"":28}{"loss":>9}{"epoch":>9}{"script / it, median (range)":>30}')
    for name in losses:
        ratios = np.divide(seconds['this script'], seconds[name])
        print(
            f'{name:28}{losses[name][-1]:9.1f}{np.median(seconds[name]):7.2f} s{np.median(ratios):16.2f} '
            f'({min(ratios):.2f} to {max(ratios):.2f})'
        )


def main():
    arguments = parse_arguments()
    os.environ.update(TF_CPP_MIN_LOG_LEVEL='3', PYTHONWARNINGS='ignore', MPLBACKEND='Agg')
    # An exception, as Ctrl-C is, so that no process stays behind
    signal.signal(signal.SIGTERM, lambda *_: sys.exit('error: terminated'))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.callback(end_workers)
        contenders = {}
        for name, make in choose_contenders(arguments.page).items():
            print(f'{name} begins', file=sys.stderr)
            contenders[name] = Worker(make, folder / f'{len(contenders)}')
        if arguments.post:
            post = PostItself(arguments.post)
            stack.callback(post.end)
            contenders['the post itself'] = post
        losses, seconds = run_rounds(contenders, arguments.rounds)
    print_table(losses, seconds)
    last_losses = [losses[name][-1] for name in losses]
    if not np.allclose(last_losses, last_losses[0], rtol=0.05):
        sys.exit('error: the losses differ by more than 5%')


if __name__ == '__main__':
    main()
