"""Time an epoch of the page beside others, which train the same network on the same digits.

An epoch is 48,000 digits in batches of 128, and 12,000 to validate with. Each contender has a process of its
own, one after another, and trains three epochs, of which the first one, which warms up, does not count. In
each round all have a turn. The ratio is the page's time in a round divided by that of the other.

PyTorch takes part if it is installed, and its compiler if there is a C++ compiler. --post COMMAND adds the
post's own code in its own environment, as in outputs/reference/post/README.md. --page FILE adds another
version of the page. What the pages write goes into a temporary folder.
"""

import argparse
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

PROJECT = Path(__file__).resolve().parent.parent
EPOCHS = 3
BATCH = 128


def page(file=PROJECT / 'variational_autoencoder.py', posts_way=False):
    """Run the page's cells as a notebook does, and its training cell for each epoch, with its callbacks.

    The post's way calls the encoder again on its own input, and has no callbacks.
    """
    import jupytext

    cells = [cell.source for cell in jupytext.read(file).cells if cell.cell_type == 'code']
    (fit,) = [number for number, cell in enumerate(cells) if 'vae.fit(' in cell]
    names = {'__name__': '__main__'}
    for cell in cells[:fit]:
        exec(cell, names)
    names.update(no_epochs=1, verbosity=0)
    if posts_way:
        names['vae'] = vae = names['Model'](names['i'], names['decoder'](names['encoder'](names['i'])[2]))
        names.update(vae_mu=names['mu'], vae_sigma=names['sigma'])  # which kl_reconstruction_loss reads
        vae.compile(optimizer='adam', loss=names['kl_reconstruction_loss'])
        settings = dict(batch_size=BATCH, validation_split=0.2, verbose=0)
    for _ in range(EPOCHS):
        if posts_way:
            vae.fit(names['input_train'], names['input_train'], **settings)
        else:
            exec(cells[fit], names)
        yield names['vae'].history.history


def digits():
    with np.load('tests/data/mnist.npz') as arrays:
        return (arrays['x_train'] / np.float32(255))[..., np.newaxis]


def keras_3(jit_compile='auto'):
    """Keras 3 on TensorFlow, with a train_step of its own; without XLA by default where there is no GPU."""
    import keras
    import tensorflow as tf
    from keras import layers, ops

    class Sampling(layers.Layer):
        def __init__(self):
            super().__init__()
            self.generator = keras.random.SeedGenerator(1)

        def call(self, inputs):
            mu, sigma = inputs
            return mu + ops.exp(sigma / 2) * keras.random.normal(ops.shape(mu), seed=self.generator)

    class VAE(keras.Model):
        def loss_of(self, data, training):
            images = data[0] if isinstance(data, tuple) else data
            mu, sigma, z = self.encoder(images, training=training)
            pred = self.decoder(z, training=training)
            reconstruction = ops.sum(keras.losses.binary_crossentropy(images, pred), axis=(1, 2))
            kl = ops.sum(-0.5 * (1 + sigma - ops.square(mu) - ops.exp(sigma)), axis=1)
            loss = ops.mean(reconstruction + kl)
            self.tracker.update_state(loss)
            return loss

        def train_step(self, data):
            with tf.GradientTape() as tape:
                loss = self.loss_of(data, training=True)
            self.optimizer.apply_gradients(
                zip(tape.gradient(loss, self.trainable_weights), self.trainable_weights)
            )
            return {'loss': self.tracker.result()}

        def test_step(self, data):
            self.loss_of(data, training=False)
            return {'loss': self.tracker.result()}

    def block(layer, x):
        return layers.BatchNormalization()(layer(x))

    same = dict(strides=2, padding='same', activation='relu')
    i = keras.Input((28, 28, 1))
    x = block(layers.Conv2D(16, 3, **same), block(layers.Conv2D(8, 3, **same), i))
    x = block(layers.Dense(20, activation='relu'), layers.Flatten()(x))
    mu, sigma = layers.Dense(2)(x), layers.Dense(2)(x)
    d_i = keras.Input((2,))
    x = layers.Reshape((7, 7, 16))(block(layers.Dense(784, activation='relu'), d_i))
    x = block(layers.Conv2DTranspose(8, 3, **same), block(layers.Conv2DTranspose(16, 3, **same), x))
    o = layers.Conv2DTranspose(1, 3, padding='same', activation='sigmoid')(x)
    vae = VAE()
    vae.encoder, vae.decoder = keras.Model(i, [mu, sigma, Sampling()([mu, sigma])]), keras.Model(d_i, o)
    vae.tracker = keras.metrics.Mean(name='loss')
    vae.compile(optimizer='adam', jit_compile=jit_compile)
    train, validate = np.split(digits(), [48000])
    for _ in range(EPOCHS):
        yield vae.fit(train, batch_size=BATCH, verbose=0, validation_data=(validate,)).history


def pytorch(compiled=False):
    """PyTorch in its default layout; paddings, epsilon and momentum as Keras has them."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    def norm(kind, size):
        return kind(size, eps=1e-3, momentum=0.01)

    class VAE(nn.Module):
        def __init__(self):
            super().__init__()
            self.down = nn.ModuleList([nn.Conv2d(1, 8, 3, 2), nn.Conv2d(8, 16, 3, 2)])
            self.down_norms = nn.ModuleList([norm(nn.BatchNorm2d, 8), norm(nn.BatchNorm2d, 16)])
            self.dense, self.dense_norm = nn.Linear(784, 20), norm(nn.BatchNorm1d, 20)
            self.mu, self.sigma = nn.Linear(20, 2), nn.Linear(20, 2)
            self.back, self.back_norm = nn.Linear(2, 784), norm(nn.BatchNorm1d, 784)
            self.up = nn.ModuleList([nn.ConvTranspose2d(16, 16, 3, 2), nn.ConvTranspose2d(16, 8, 3, 2)])
            self.up_norms = nn.ModuleList([norm(nn.BatchNorm2d, 16), norm(nn.BatchNorm2d, 8)])
            self.output = nn.ConvTranspose2d(8, 1, 3, 1, padding=1)

        def forward(self, true):
            x = true
            for layer, layer_norm in zip(self.down, self.down_norms):
                x = layer_norm(F.relu(layer(F.pad(x, (0, 1, 0, 1)))))
            x = self.dense_norm(F.relu(self.dense(x.permute(0, 2, 3, 1).flatten(1))))
            mu, sigma = self.mu(x), self.sigma(x)
            z = mu + torch.exp(sigma / 2) * torch.randn_like(mu)
            x = self.back_norm(F.relu(self.back(z))).view(-1, 7, 7, 16).permute(0, 3, 1, 2)
            for layer, layer_norm in zip(self.up, self.up_norms):
                x = layer_norm(F.relu(layer(x)[..., :-1, :-1]))
            crossentropy = F.binary_cross_entropy_with_logits(self.output(x), true, reduction='sum')
            kl = -0.5 * (1 + sigma - mu.square() - sigma.exp()).sum(1).mean()
            return crossentropy / len(true) + kl

    vae = VAE()
    if compiled:
        vae.compile()
    optimizer = torch.optim.Adam(vae.parameters(), eps=1e-7)
    images = torch.from_numpy(digits()).permute(0, 3, 1, 2).contiguous()
    for _ in range(EPOCHS):
        history = {'loss': [], 'val_loss': []}
        vae.train()
        for batch in torch.randperm(48000).split(BATCH):
            optimizer.zero_grad()
            loss = vae(images[batch])
            loss.backward()
            optimizer.step()
            history['loss'].append(loss.item())
        vae.eval()
        with torch.no_grad():
            for batch in images[48000:].split(BATCH):
                history['val_loss'].append(vae(batch).item())
        yield history


CONTENDERS = {
    'this script': 'page()',
    "the post's way": 'page(posts_way=True)',
    'Keras 3': 'keras_3()',
    'Keras 3, XLA': 'keras_3(jit_compile=True)',
}
if importlib.util.find_spec('torch'):
    CONTENDERS['PyTorch'] = 'pytorch()'
    if shutil.which('g++'):
        CONTENDERS['PyTorch, compiled'] = 'pytorch(compiled=True)'


def time_epochs(command, folder=None):
    """Start a command, read its losses epoch by epoch, and end it; return its time and validation loss."""
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    text, ends = b'', []
    while len(ends) < EPOCHS:
        more = process.stdout.read1()
        if not more:
            sys.exit(text[-2000:].decode())
        text += more
        losses = re.findall(rb'- loss: \S+ - val_loss: (\S+)\n', text)
        if len(losses) > len(ends):
            ends.append(time.perf_counter())
    process.kill()
    process.wait()
    return (ends[-1] - ends[0]) / (EPOCHS - 1), float(losses[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('--rounds', type=int, default=3, help='default: %(default)s')
    parser.add_argument('--post', metavar='COMMAND', help="such as 'post/bin/python post.py'")
    parser.add_argument('--page', metavar='FILE', type=Path, help='another version of the page')
    parser.add_argument('--only', help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        for history in eval(arguments.only):
            loss, val_loss = np.mean(history['loss']), np.mean(history['val_loss'])
            print(f'- loss: {loss} - val_loss: {val_loss}', flush=True)  # as Keras does
        return

    contenders = dict(CONTENDERS)
    if arguments.page:
        contenders[arguments.page.name] = f'page({str(arguments.page.resolve())!r})'
    this_file = Path(__file__).resolve()
    commands = {name: [sys.executable, this_file, '--only', call] for name, call in contenders.items()}
    if arguments.post:
        commands["the post's code"] = shlex.split(arguments.post)
    os.environ.update(KERAS_BACKEND='tensorflow', TF_ENABLE_ONEDNN_OPTS='1', TF_CPP_MIN_LOG_LEVEL='3')
    seconds = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / 'tests').symlink_to(PROJECT / 'tests')
        for number in range(arguments.rounds):
            for name in commands:
                # The post's code runs where it lies
                duration, loss = time_epochs(commands[name], folder if name in contenders else None)
                seconds[name].append(duration)
                print(f'round {number + 1}: {name}, {duration:.2f} s, validation loss {loss:.1f}', flush=True)
    for name in commands:
        ratios = np.divide(seconds['this script'], seconds[name])
        low, high = min(ratios), max(ratios)
        median = np.median(seconds[name])
        print(f'{name:20} {median:6.2f} s, ratio {np.median(ratios):.2f} ({low:.2f} to {high:.2f})')


if __name__ == '__main__':
    main()
