"""
Time this script's training beside the post's way, Keras 3 and PyTorch: the same network,
the same digits, batches of 128.

- this script: its cells, and fit.
- the post's way, mended: the encoder called on its own input, the flattened loss, 225 predictions for
  the grid, TensorFlow's defaults; in graph mode, and with the right number of ticks.
- Keras 3: on TensorFlow, with a train_step of its own, as in keras.io's example.
- PyTorch, where it is installed: eager, in its default layout, with Keras's paddings and constants;
  and the same with torch.compile, where there is a C++ compiler.

Each has a process of its own, since eager execution is off for good in ours; they run in
turn, one waiting while the other works, so that what else the machine does falls on all of
them. Before anything is timed, all are given the same weights and must compute the same loss
for the same batch. The first round warms up and does not count.

A step is one batch, without validation. An epoch is 48,000 digits, and 12,000 to validate with.
The start is the time up to the first step; memory is the peak of the process.
"""
import argparse
import contextlib
import importlib.metadata
import importlib.util
import io
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

here = Path(__file__).resolve().parent
BATCH, STEPS = 128, 100
CONTENDERS = {'script': 'this script', 'post': "the post's way", 'keras3': 'Keras 3, custom train_step',
              'torch': 'PyTorch', 'compiled': 'PyTorch, torch.compile'}


class Script:
    """This script: its cells up to fit, and viz_decoded."""
    def __init__(self):
        script = here.parent / 'variational_autoencoder.py'
        before_fit, rest = script.read_text().split('history = vae.fit(')
        viz_decoded = rest.split('# ## Visualizing samples')[1].split('# %% [markdown]')[0]
        self.page = {'__file__': str(script)}
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            sys.argv = [str(script), '--output-dir', folder]
            for text in before_fit, viz_decoded:
                source = Path(folder) / f'cells{len(self.page)}.py'
                source.write_text('# ' + text)
                exec(compile('# ' + text, source, 'exec'), self.page)
        self.images, self.encoder, self.decoder, self.vae = (
            self.page[name] for name in ('input_train', 'encoder', 'decoder', 'vae'))

    def step(self, images):
        return float(np.ravel(self.vae.train_on_batch(images, images))[0])

    def fit(self, images, **settings):
        self.vae.fit(images, images, epochs=1, batch_size=BATCH, verbose=0, **settings)

    def weights(self):
        return self.encoder.get_weights(), self.decoder.get_weights()

    def set_weights(self, encoder, decoder):
        self.encoder.set_weights(encoder)
        self.decoder.set_weights(decoder)

    def figure(self):
        self.page['viz_decoded'](self.encoder, self.decoder, None)


class Post(Script):
    """The post's way: the encoder called on its own input, a flattened loss, 225 predictions."""
    def __init__(self):
        os.environ['TF_MKL_OPTIMIZE_PRIMITIVE_MEMUSE'] = 'true'  # TensorFlow's default: the change is our script's
        super().__init__()
        K, binary_crossentropy = self.page['K'], self.page['binary_crossentropy']
        i, (mu, sigma, _) = self.encoder.input, self.encoder.outputs
        self.vae = self.page['Model'](i, self.decoder(self.encoder(i)[2]))

        def kl_reconstruction_loss(true, pred):
            reconstruction_loss = binary_crossentropy(K.flatten(true), K.flatten(pred)) * 28 * 28
            kl_loss = -0.5 * K.sum(1 + sigma - K.square(mu) - K.exp(sigma), axis=-1)
            return K.mean(reconstruction_loss + kl_loss)
        self.vae.compile(optimizer='adam', loss=kl_reconstruction_loss)

    def figure(self):
        for point in np.random.default_rng(0).uniform(-4, 4, (225, 1, 2)):
            self.decoder.predict(point)
        super().figure()


def digits():
    with np.load(here / 'data' / 'mnist.npz') as arrays:
        return (arrays['x_train'] / np.float32(255))[..., np.newaxis]


class Keras3:
    """Keras 3 on TensorFlow, with a train_step of its own as in keras.io's example."""
    def __init__(self):
        os.environ['KERAS_BACKEND'] = 'tensorflow'
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
                self.trackers = [keras.metrics.Mean(name=name)
                                 for name in ('loss', 'reconstruction_loss', 'kl_loss')]

            metrics = property(lambda self: self.trackers)

            def losses_of(self, data, training):
                data = data[0] if isinstance(data, tuple) else data
                mu, sigma, z = self.encoder(data, training=training)
                pred = self.decoder(z, training=training)
                reconstruction = ops.mean(ops.sum(keras.losses.binary_crossentropy(data, pred), axis=(1, 2)))
                kl = ops.mean(ops.sum(-0.5 * (1 + sigma - ops.square(mu) - ops.exp(sigma)), axis=1))
                return reconstruction + kl, reconstruction, kl

            def track(self, values):
                for tracker, value in zip(self.trackers, values):
                    tracker.update_state(value)
                return {tracker.name: tracker.result() for tracker in self.trackers}

            def train_step(self, data):
                with tf.GradientTape() as tape:
                    values = self.losses_of(data, True)
                self.optimizer.apply_gradients(zip(tape.gradient(values[0], self.trainable_weights),
                                                   self.trainable_weights))
                return self.track(values)

            def test_step(self, data):
                return self.track(self.losses_of(data, False))

        self.vae = VAE(self.encoder, self.decoder)
        self.vae.compile(optimizer='adam')

    def step(self, images):
        return float(self.vae.train_on_batch(images, return_dict=True)['loss'])

    def fit(self, images, validation_split=0):
        split = int(len(images) * (1 - validation_split))
        self.vae.fit(images[:split], epochs=1, batch_size=BATCH, verbose=0,
                     validation_data=(images[split:],) if validation_split else None)

    def set_weights(self, encoder, decoder):
        self.encoder.set_weights(encoder)
        self.decoder.set_weights(decoder)


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
                self.convolutions = nn.ModuleList([nn.Conv2d(1, 8, 3, 2), nn.Conv2d(8, 16, 3, 2),
                                                   nn.ConvTranspose2d(16, 16, 3, 2), nn.ConvTranspose2d(16, 8, 3, 2),
                                                   nn.ConvTranspose2d(8, 1, 3, 1, padding=1)])
                self.dense = nn.ModuleList([nn.Linear(784, 20), nn.Linear(20, 2), nn.Linear(20, 2), nn.Linear(2, 784)])
                self.norms = nn.ModuleList(
                    [kind(size, eps=1e-3, momentum=0.01) for kind, size in [
                        (nn.BatchNorm2d, 8), (nn.BatchNorm2d, 16), (nn.BatchNorm1d, 20),
                        (nn.BatchNorm1d, 784), (nn.BatchNorm2d, 16), (nn.BatchNorm2d, 8)]])

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
                reconstruction = F.binary_cross_entropy_with_logits(logits, true, reduction='sum') / len(true)
                kl = -0.5 * (1 + sigma - mu.square() - sigma.exp()).sum(1).mean()
                return reconstruction + kl, reconstruction, kl

        self.vae = VAE()
        self.optimizer = torch.optim.Adam(self.vae.parameters(), eps=1e-7)

    def set_weights(self, encoder, decoder):
        with self.torch.no_grad():
            arrays = iter([*encoder, *decoder])

            def fill(*tensors, change=lambda array: array):
                for tensor in tensors:
                    array = change(next(arrays)) if tensor.ndim > 1 else next(arrays)
                    tensor.copy_(self.torch.from_numpy(np.ascontiguousarray(array)))

            c, d, n = self.vae.convolutions, self.vae.dense, self.vae.norms
            order = [c[0], n[0], c[1], n[1], d[0], n[2], d[1], d[2], d[3], n[3], c[2], n[4], c[3], n[5], c[4]]
            for layer in order:
                fill(layer.weight, change=lambda array: array.T if array.ndim == 2 else array.transpose(3, 2, 0, 1))
                fill(layer.bias)
                if layer in list(n):
                    fill(layer.running_mean, layer.running_var)

    def train(self, true):
        self.optimizer.zero_grad()
        losses = self.vae(true)
        losses[0].backward()
        self.optimizer.step()
        return [loss.item() for loss in losses]

    def step(self, images):
        return self.train(self.torch.from_numpy(images).permute(0, 3, 1, 2))[0]

    def fit(self, images, validation_split=0):
        split = int(len(images) * (1 - validation_split))
        self.vae.train()
        order = self.torch.randperm(split)
        for start in range(0, split, BATCH):
            self.train(images[order[start:start + BATCH]])
        self.vae.eval()
        with self.torch.no_grad():
            for start in range(split, len(images), BATCH):
                [loss.item() for loss in self.vae(images[start:start + BATCH])]
        self.vae.train()


class CompiledTorch(Torch):
    """PyTorch with torch.compile."""
    def __init__(self):
        super().__init__()
        self.vae.compile()


def work(name):
    """Be one contender: answer each line of standard input with a line of JSON."""
    contender = {'script': Script, 'post': Post, 'keras3': Keras3, 'torch': Torch,
                 'compiled': CompiledTorch}[name]()
    batch = digits()[:BATCH]
    contender.step(batch)
    print(json.dumps('ready'), flush=True)
    for line in sys.stdin:
        task, *arguments = line.split()
        began = time.perf_counter()
        answer = None
        if task == 'weights':  # new ones, with a variance so small that no draw can be told from its mean
            encoder, decoder = contender.weights()
            encoder[-2][:], encoder[-1][:] = 0, -40
            np.savez(arguments[0], *encoder, *decoder)
            answer = len(encoder)
        elif task == 'loss':
            with np.load(arguments[0]) as arrays:
                arrays = [arrays[f'arr_{k}'] for k in range(len(arrays))]
            contender.set_weights(arrays[:int(arguments[1])], arrays[int(arguments[1]):])
            answer = contender.step(batch)
        elif task == 'step':
            contender.fit(contender.images[:BATCH * STEPS])
            answer = (time.perf_counter() - began) / STEPS
        elif task == 'epoch':
            contender.fit(contender.images, validation_split=0.2)
        elif task == 'figure':
            contender.figure()
        elif task == 'memory':
            answer = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(time.perf_counter() - began if answer is None else answer), flush=True)


class Worker:
    """The process of one contender, seen from outside."""
    def __init__(self, name):
        began = time.perf_counter()
        self.errors = tempfile.TemporaryFile('w+')
        environment = {**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '3', 'PYTHONWARNINGS': 'ignore', 'MPLBACKEND': 'Agg'}
        self.process = subprocess.Popen([sys.executable, __file__, '--work', name], text=True, env=environment,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors)
        self.name = name
        self.answer()
        self.start = time.perf_counter() - began

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            sys.exit(f'\n{self.errors.read()[-2000:]}\nerror: the process of {CONTENDERS[self.name]} ended')
        return json.loads(line)

    def ask(self, *words):
        print(*words, file=self.process.stdin, flush=True)
        return self.answer()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=5, help='rounds that each takes its turn in (default: 5)')
    parser.add_argument('--work', choices=CONTENDERS, help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.work:
        return work(settings.work)

    def progress(text):
        print(f'\r{text:60}', end='', file=sys.stderr, flush=True)

    names = list(CONTENDERS)
    if not importlib.util.find_spec('torch'):
        names = names[:-2]
    elif not shutil.which('g++'):
        names = names[:-1]
    workers = {}
    for name in names:
        progress(f'starting {CONTENDERS[name]}')
        workers[name] = Worker(name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'weights.npz'
        size = workers['script'].ask('weights', path)
        losses = {name: worker.ask('loss', path, size) for name, worker in workers.items()}
    if not np.allclose(list(losses.values()), losses['script'], rtol=5e-4):
        sys.exit(f'error: the losses differ for the same weights and digits: {losses}')

    times = {task: {name: [] for name in names} for task in ('step', 'epoch')}
    for turn in range(settings.rounds + 1):  # the first one warms up
        for task in times:
            for name, worker in workers.items():
                progress(f'round {turn} of {settings.rounds}: {task}, {CONTENDERS[name]}')
                seconds = worker.ask(task)
                if turn:
                    times[task][name].append(seconds)
    figures = {name: min(workers[name].ask('figure') for _ in range(3)) for name in ('script', 'post')}
    progress('')

    versions = [f'{name} {importlib.metadata.version(name)}'
                for name in ('tensorflow', 'tf_keras', 'keras', *(['torch'] if 'torch' in names else []), 'numpy')]
    print(f'\r{platform.machine()}, {os.cpu_count()} cores; Python {platform.python_version()}, {", ".join(versions)}')
    print('loss for the same weights: ' + ', '.join(f'{name} {loss:.4f}' for name, loss in losses.items()))
    print(f'\n{"":28}{"step":>9}{"epoch":>9}{"script / it, median (range)":>30}{"start":>9}{"memory":>10}')
    for name, worker in workers.items():
        ratios = [ours / its for ours, its in zip(times['epoch']['script'], times['epoch'][name])]
        print(f'{CONTENDERS[name]:28}{1000 * statistics.median(times["step"][name]):6.1f} ms'
              f'{statistics.median(times["epoch"][name]):7.2f} s'
              f'{statistics.median(ratios):16.2f} ({min(ratios):.2f} to {max(ratios):.2f})'
              f'{worker.start:7.1f} s{worker.ask("memory"):7.0f} MB')
    print(f'\nthe grid of 15 by 15: {figures["script"]:.2f} s in one call, {figures["post"]:.2f} s in 225')
    print('step: without validation; epoch: 48,000 digits and 12,000 to validate with; start: to the first step')


if __name__ == '__main__':
    main()
