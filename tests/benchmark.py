"""Time the training of this page beside the post's way, Keras 3 and PyTorch.

All train the same network on the same digits in batches of 128: an epoch is 48,000 digits, and 12,000
to validate with. Each has a process of its own, since eager execution is off for good in ours. They
run in turn, one waiting while another works, so that whatever else the machine does falls on all of
them. All that use TensorFlow have oneDNN on, as the page has. The first round warms up and does not
count. In the last one, all must come to the same loss, to within 5%. Nothing is saved.

The post itself takes part with --post COMMAND, which runs its listing in the environment of its time
(see outputs/reference/post/README.md); it is stopped while the others work.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import io
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
from pathlib import Path
from types import SimpleNamespace

import jupytext
import numpy as np

HERE = Path(__file__).resolve().parent
BATCH = 128


class Script:
    """The page: its cells up to the training, and viz_decoded."""

    def __init__(self):
        script = HERE.parent / 'variational_autoencoder.py'
        cells = [cell.source for cell in jupytext.read(script).cells if cell.cell_type == 'code']
        (fit,) = [number for number, source in enumerate(cells) if 'vae.fit(' in source]
        (viz_decoded,) = [source for source in cells if source.startswith('def viz_decoded')]
        self.page = {'__file__': str(script), '__name__': '__main__'}
        self.folder = tempfile.TemporaryDirectory()
        sys.argv = [str(script), '--output-dir', self.folder.name]
        with contextlib.redirect_stdout(io.StringIO()):
            for number, source in enumerate([*cells[:fit], viz_decoded]):
                # TensorFlow reads the source of the functions that it is given
                file = Path(self.folder.name) / f'cell_{number}.py'
                file.write_text(source)
                exec(compile(source, file, 'exec'), self.page)
        self.images = self.page['input_train']
        self.encoder, self.decoder = self.page['encoder'], self.page['decoder']
        self.vae = self.page['vae']

    def step(self):
        self.vae.train_on_batch(self.images[:BATCH], self.images[:BATCH])

    def epoch(self):
        return self.vae.fit(
            self.images, self.images, epochs=1, batch_size=BATCH, verbose=0, validation_split=0.2
        ).history['loss'][0]

    def figure(self):
        self.page['viz_decoded'](self.encoder, self.decoder, None)


class Post(Script):
    """The post's way, in graph mode: two calls of the encoder, the flattened loss, 225 predictions."""

    def __init__(self):
        super().__init__()
        K, binary_crossentropy = self.page['K'], self.page['binary_crossentropy']
        i, (mu, sigma, _) = self.encoder.input, self.encoder.outputs
        self.vae = self.page['Model'](i, self.decoder(self.encoder(i)[2]))

        def loss(true, pred):
            divergence = K.sum(K.exp(sigma) + mu**2 - sigma - 1, axis=1) / 2
            return 28 * 28 * binary_crossentropy(K.flatten(true), K.flatten(pred)) + K.mean(divergence)

        self.vae.compile(optimizer='adam', loss=loss)

    def figure(self):
        points = np.random.default_rng(0).uniform(-4, 4, (225, 1, 2))
        images = np.concatenate([self.decoder.predict(point) for point in points])
        decoder = SimpleNamespace(predict=lambda points: images[: len(points)])
        self.page['viz_decoded'](self.encoder, decoder, None)


class PostItself:
    """The post's listing in its own environment, whose process is paused except during its turns."""

    def __init__(self):
        self.process = subprocess.Popen(shlex.split(os.environ['POST_COMMAND']), stdout=subprocess.PIPE)

    def step(self):
        self.read(rb'ETA: ')

    def read(self, end):
        self.process.send_signal(signal.SIGCONT)
        text = b''
        while not re.search(end, text):
            text = text[-200:] + self.process.stdout.read1(4096)
        self.process.send_signal(signal.SIGSTOP)
        return text

    def stop(self):
        self.process.kill()

    def epoch(self):
        line = self.read(rb'val_loss: [\d.]+\n')
        return float(re.search(rb'- loss: ([\d.]+) - val_loss: ', line)[1])


def digits():
    with np.load(HERE / 'data' / 'mnist.npz') as arrays:
        return (arrays['x_train'] / np.float32(255))[..., np.newaxis]


class Keras3:
    """Keras 3 on TensorFlow, with a train_step of its own as in keras.io's example."""

    def __init__(self):
        os.environ['KERAS_BACKEND'] = 'tensorflow'
        os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '1')
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
        self.decoder = keras.Model(
            d_i, layers.Conv2DTranspose(1, 3, padding='same', activation='sigmoid')(x)
        )

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
        self.vae.compile(optimizer='adam')

    def step(self):
        self.vae.train_on_batch(self.images[:BATCH])

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

    def step(self):
        self.train(self.images[:BATCH])

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


CONTENDERS = {
    'this script': Script,
    "the post's way": Post,
    'Keras 3, custom train_step': Keras3,
    'PyTorch': Torch,
    'PyTorch, torch.compile': CompiledTorch,
}
contender = None  # of this process


def begin(kind):
    """Make this process's contender, and have it take its first step."""
    global contender
    # TensorFlow writes to standard error as it starts; exceptions come through the pool
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    contender = kind()
    contender.step()


def do(method):
    """What the contender's method returns, and the seconds that it takes."""
    began = time.perf_counter()
    answer = getattr(contender, method)()
    return answer, time.perf_counter() - began


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--rounds', type=int, default=5, help='default: 5')
    parser.add_argument('--post', metavar='COMMAND', help="as in 'post/bin/python post.py'")
    arguments = parser.parse_args()
    os.environ.update(
        TF_CPP_MIN_LOG_LEVEL='3',
        PYTHONWARNINGS='ignore',
        MPLBACKEND='Agg',
        POST_COMMAND=arguments.post or '',
    )
    names = list(CONTENDERS)
    if not importlib.util.find_spec('torch'):
        names = names[:-2]
    elif not shutil.which('g++'):
        names = names[:-1]
    if arguments.post:
        CONTENDERS['the post itself'] = PostItself
        names.append('the post itself')
    pools, starts = {}, {}

    def ask(name, method):
        print(f'{name}: {method:40}', end='\r', file=sys.stderr, flush=True)
        return pools[name].submit(do, method).result()

    for name in names:
        pools[name] = ProcessPoolExecutor(1, multiprocessing.get_context('spawn'))
        began = time.perf_counter()
        pools[name].submit(begin, CONTENDERS[name]).result()
        starts[name] = time.perf_counter() - began
    epochs = np.array([[ask(name, 'epoch') for name in names] for _ in range(arguments.rounds + 1)])
    losses, times = epochs[-1, :, 0], epochs[1:, :, 1]
    if np.ptp(losses) > 0.05 * losses[0]:
        sys.exit(f'error: the losses differ: {losses}')
    if arguments.post:
        ask('the post itself', 'stop')
    few_calls, many_calls = [min(ask(name, 'figure')[1] for _ in range(3)) for name in names[:2]]

    packages = ['tensorflow', 'tf_keras', 'keras', 'numpy'] + ['torch'] * ('PyTorch' in names)
    versions = [f'{package} {importlib.metadata.version(package)}' for package in packages]
    print(f'{platform.machine()}, {os.cpu_count()} cores; Python {platform.python_version()}')
    print(', '.join(versions))
    print(f'\n{"":28}{"loss":>9}{"epoch":>9}{"script / it, median (range)":>30}{"start":>9}')
    for name, loss, seconds in zip(names, losses, times.T):
        ratios = times[:, 0] / seconds
        print(
            f'{name:28}{loss:9.1f}{np.median(seconds):7.2f} s{np.median(ratios):16.2f} '
            f'({min(ratios):.2f} to {max(ratios):.2f}){starts[name]:7.1f} s'
        )
    print(f'\nthe grid of 15 by 15: {few_calls:.2f} s in 15 calls, {many_calls:.2f} s in 225')


if __name__ == '__main__':
    main()
