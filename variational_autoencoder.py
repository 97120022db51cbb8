# %% [markdown]
# # A variational autoencoder with Keras
# A port of the blog post [How to create a variational autoencoder with Keras](
# https://github.com/christianversloot/machine-learning-articles/blob/main/how-to-create-a-variational-autoencoder-with-keras.md)
# to TensorFlow 2.16 to 2.21 and Python 3.10 to 3.13, with the post's headings, names and order. Above a cell stands
# where it departs from the post, and why; what the post does not have is titled so. A copy of this page needs
# `pip install "tensorflow>=2.16,<2.22" "tf_keras>=2.16,<2.22" "matplotlib>=3.9"`.

# %% [markdown]
# ## Model imports
# The post imports `keras`, which is Keras 3 by now and lacks some of what the post calls; `tf_keras` is
# Keras 2. The post's loss reads `mu` and `sigma`, which are not its arguments. TensorFlow allows that in graph
# mode only, so eager execution is off, as a reader suggests below the post. The post's own suggestion,
# `run_functions_eagerly(True)`, does not help. Warnings about that mode, or about a missing window, are left out.
# %%
import argparse
import json
import os
import signal
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path
# On many processors TensorFlow leaves oneDNN off, and takes about twice as long for a step.
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '1')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
warnings.filterwarnings('ignore', message='.Model.state_updates|.*non-interactive')
# %%
import h5py
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
import tf_keras as keras
from tf_keras import backend as K
from tf_keras.datasets import mnist
from tf_keras.layers import AveragePooling2D, BatchNormalization, Cropping2D
from tf_keras.layers import Conv2D, Conv2DTranspose, Input, Flatten, Dense, Lambda, Reshape
from tf_keras.losses import binary_crossentropy
from tf_keras.models import Model

tf.get_logger().setLevel('ERROR')
tf.compat.v1.disable_eager_execution()

# %% [markdown]
# ## Not in the post: the command line
# A flag goes before its setting further down. A notebook has none.
# %%
parser = argparse.ArgumentParser(prog='variational_autoencoder.py', usage='%(prog)s [flags]',
                                 argument_default=argparse.SUPPRESS)
flag = parser.add_argument
flag('--architecture', metavar='NAME', choices=['original', 'dcgan', 'dcgan-as-published'],
     help='original, dcgan or dcgan-as-published (default: original)')
flag('--epochs', metavar='N', type=int, help='0 only draws (default: 100, 5 for both dcgan)')
flag('--batch-size', metavar='N', type=int, help='(default: 128)')
flag('--data', metavar='FILE.npz', type=os.path.expanduser,
     help='x_train, x_test and, if there are labels, y_test (default: MNIST)')
flag('--weights', metavar='FILE', type=os.path.expanduser,
     help='go on from this vae_weights.h5 (default: a new training)')
flag('--seed', metavar='N', type=int, help='(default: 42)')
flag('--output-dir', metavar='DIR', type=os.path.expanduser,
     help='(default: outputs/<architecture> next to the script)')
script = Path(globals().get('__file__', 'notebook'))
started = script.resolve() == Path(sys.argv[0]).resolve()
given = vars(parser.parse_args(sys.argv[1:] if started else []))

# %% [markdown]
# ## Loading data
# The post downloads MNIST. The repository of this page has a copy.
# %%
mnist_copy = script.parent / 'tests' / 'data' / 'mnist.npz'
if 'data' not in given and mnist_copy.exists():
    with np.load(mnist_copy) as file:
        input_train, target_train = file['x_train'], file['y_train']
        input_test, target_test = file['x_test'], file['y_test']
elif 'data' not in given:
    try:
        (input_train, target_train), (input_test, target_test) = mnist.load_data()
    except Exception as error:
        parser.error(f'MNIST cannot be downloaded ({error}); name an mnist.npz with --data')

# %% [markdown]
# ## Not in the post: images of one's own
# They may be grey or in colour and of any one size: integers from 0 to 255, floating point numbers from 0 to 1,
# or booleans. All are brought to 0 to 255, since the preprocessing divides by that. The post does not check it;
# with pixels outside of [0, 1] its loss falls below zero, without end.
# %%
@contextmanager
def answering(what, advice):
    """End the run with one line where there is an exception: what is wrong, and what to do."""
    try:
        yield
    except Exception as error:
        found, _, _ = str(error).partition('\n')
        parser.error(f'{what} ({found}); {advice}')
# %%
def checked(images, name):
    """Return images, or end the run, as (n, height, width, channels) from 0 to 255.

    images may lack the channels. They are integers from 0 to 255, or others from 0 to 1.
    """
    found = f'{name} holds {images.dtype} of the shape {images.shape}'
    numbers = images.size > 0 and images.dtype.kind in 'buif'
    if not numbers or images.ndim < 3 or images.shape[3:] not in [(), (1,), (3,)]:
        parser.error(f'{found}; it must hold numbers as (n, height, width[, 1 or 3 channels])')
    low, high = float(images.min()), float(images.max())
    if not np.isfinite(high - low):
        parser.error(f'{found}, some of it NaN or infinite; leave these images out')
    white = 255 if images.dtype.kind in 'ui' else 1
    if low < 0 or high > white:
        parser.error(f'{found} from {low:g} to {high:g}; integers must lie in 0 to 255, others '
                     f'in 0 to 1: as floats, subtract {low:.17g}, divide by {high - low:.17g}')
    images = images.reshape(*images.shape[:3], -1)
    return images if white == 255 else images.astype('float32') * 255
# %%
if 'data' in given:
    arrays = {}
    for name in ('x_train', 'x_test', 'y_test'):
        with answering(f'{name} of {given["data"]} cannot be read',
                       '--data takes an .npz file from numpy.savez: x_train, x_test (pictures '
                       'of one size, numpy.stack) and y_test (labels, labels.astype(str))'):
            with np.load(given['data']) as file:
                if name in file:
                    arrays[name] = file[name]
                elif name != 'y_test':
                    raise ValueError(f'it holds {", ".join(file.files[:9])}')
    input_train, target_train = arrays['x_train'], None
    input_test, target_test = arrays['x_test'], arrays.get('y_test')
input_train = checked(input_train, 'x_train')
input_test = checked(input_test, 'x_test')
if input_train.shape[1:] != input_test.shape[1:]:
    parser.error(f'the images of x_train are {input_train.shape[1:]}, those of x_test '
                 f'{input_test.shape[1:]}; they must be alike')
if input_train.max() < 32:
    parser.error(f'x_train is as good as black: its largest value is {input_train.max():g} of '
                 '255; save masks as booleans, and divide others by their largest value')
if target_test is not None and target_test.size != len(input_test):
    parser.error(f'y_test is {target_test.shape}; it must be ({len(input_test)},), a label for '
                 'each image of x_test; one-hot labels become that with y_test.argmax(axis=1)')

# %% [markdown]
# ## Model configuration
# The post takes width and height for one another, which scrambles images that are not square. It has one
# channel; here there are as many as in the images.
# %%
img_height, img_width = input_train.shape[1], input_train.shape[2]
batch_size = 128
no_epochs = 100
validation_split = 0.2
verbosity = 1
latent_dim = 2
num_channels = input_train.shape[3]

# %% [markdown]
# The post has no seed, and writes each network out. Its DCGAN-like listing is `dcgan`; the summary below that is of
# `dcgan-as-published`. A decoder needs as many filters as its encoder, and batch normalization two images a batch.
# %%
seed = 42
architecture = 'original'
# The filters of the encoder and of the decoder, the size of their kernels, and the epochs.
architectures = {
    'original': ([8, 16], [16, 8], 3, no_epochs),
    'dcgan': ([128, 256, 512, 1024], [1024, 512, 256, 128], 5, 5),
    'dcgan-as-published': ([1024], [128], 5, 5),
}
architecture = given.get('architecture', architecture)
encoder_filters, decoder_filters, kernel_size, no_epochs = architectures[architecture]
no_epochs = given.get('epochs', no_epochs)
batch_size = given.get('batch_size', batch_size)
seed = given.get('seed', seed)
for name, number, least in [('images', len(input_train), 3), ('epochs', no_epochs, 0),
                            ('batch size', batch_size, 2), ('latent_dim', latent_dim, 2)]:
    if number < least:
        parser.error(f'{name}: {number} found; it must be at least {least}')
# A log has a line for each epoch instead of a progress bar, and `| head` ends the run quietly.
if verbosity == 1 and not (sys.stdout.isatty() or hasattr(sys, 'ps1')):
    verbosity = 2
if started and not hasattr(sys, 'ps1') and hasattr(signal, 'SIGPIPE'):
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
# A training that goes on draws other random numbers than it did before.
earlier = {}
if 'weights' in given:
    with answering(f'{given["weights"]} cannot be read', '--weights takes a vae_weights.h5'):
        with h5py.File(given['weights']) as file:
            if 'optimizer' in file:
                arrays = file['optimizer']
                earlier['optimizer'] = [arrays[str(k)][()] for k in range(len(arrays))]
                seed += int(arrays['0'][()])
            if 'losses' in file:
                earlier['losses'] = json.loads(file['losses'][()])
# A second run in a notebook is then like the first. Every other model there is lost to it.
K.clear_session()
keras.utils.set_random_seed(seed % 2**32)

# %% [markdown]
# ## Data preprocessing
# %%
input_train = input_train.reshape(input_train.shape[0], img_height, img_width, num_channels)
input_test = input_test.reshape(input_test.shape[0], img_height, img_width, num_channels)
input_shape = (img_height, img_width, num_channels)
input_train = input_train.astype('float32')
input_test = input_test.astype('float32')
input_train = input_train / 255
input_test = input_test / 255

# %% [markdown]
# ## Creating the encoder
# ### Encoder definition
# The post writes each pair of layers out; the loop builds any of the three networks. `sigma` is the logarithm
# of the variance, in the post's code too; the post's text has it as the standard deviation.
# %%
i = Input(shape=input_shape, name='encoder_input')
cx = i
for filters in encoder_filters:
    cx = Conv2D(filters, kernel_size, strides=2, padding='same', activation='relu')(cx)
    cx = BatchNormalization()(cx)
x = Flatten()(cx)
x = Dense(20, activation='relu')(x)
x = BatchNormalization()(x)
mu = Dense(latent_dim, name='latent_mu')(x)
sigma = Dense(latent_dim, name='latent_sigma')(x)
# %%
conv_shape = K.int_shape(cx)

# %% [markdown]
# ### Reparameterization trick
# Kingma & Welling (2013), [arXiv:1312.6114](https://arxiv.org/abs/1312.6114), section 2.4. The post's text has
# mu + sigma^2 * eps; its code, as here, takes exp(sigma / 2), the standard deviation.
# %%
def sample_z(args):
    """Draw z from N(mu, exp(sigma)); args is [mu, sigma], and all are (batch, latent_dim)."""
    mu, sigma = args
    batch = K.shape(mu)[0]
    dim = K.int_shape(mu)[1]
    eps = K.random_normal(shape=(batch, dim))
    return mu + K.exp(sigma / 2) * eps
# %%
z = Lambda(sample_z, output_shape=(latent_dim,), name='z')([mu, sigma])

# %% [markdown]
# ### Encoder instantiation
# %%
encoder = Model(i, [mu, sigma, z], name='encoder')
encoder.summary()

# %% [markdown]
# ## Creating the decoder
# ### Decoder definition
# The post does not crop. Its DCGAN-like decoder doubles 2 pixels to 32, which fit no digit of 28; here the
# surplus is cut off all around.
# %%
d_i = Input(shape=(latent_dim,), name='decoder_input')
x = Dense(conv_shape[1] * conv_shape[2] * conv_shape[3], activation='relu')(d_i)
x = BatchNormalization()(x)
x = Reshape((conv_shape[1], conv_shape[2], conv_shape[3]))(x)
cx = x
for filters in decoder_filters:
    cx = Conv2DTranspose(filters, kernel_size, strides=2, padding='same', activation='relu')(cx)
    cx = BatchNormalization()(cx)
surplus = [cx.shape[1] - img_height, cx.shape[2] - img_width]
if surplus != [0, 0]:
    cx = Cropping2D([(pixels // 2, pixels - pixels // 2) for pixels in surplus])(cx)
o = Conv2DTranspose(filters=num_channels, kernel_size=3, activation='sigmoid', padding='same',
                    name='decoder_output')(cx)

# %% [markdown]
# ### Decoder instantiation
# %%
decoder = Model(d_i, o, name='decoder')
decoder.summary()

# %% [markdown]
# ## Creating the whole VAE
# The post calls the encoder on the encoder's own input, but its loss reads `mu` and `sigma` from before that call.
# It then runs twice in each step, and its batch normalization moves twice. Here it runs once.
# %%
i = Input(shape=input_shape, name='encoder_input')
mu, sigma, z = encoder(i)
vae_outputs = decoder(z)
vae = Model(i, vae_outputs, name='vae')
vae.summary()

# %% [markdown]
# ## Defining custom VAE loss function
# The negative evidence lower bound: Kingma & Welling (2013), [arXiv:1312.6114](https://arxiv.org/abs/1312.6114),
# equation 10. Each term is a function, so that Keras can show it. The post counts one channel only, in its mean over
# the flattened batch times width times height. Its flattened `pred` is clipped, and has no gradient then where the
# sigmoid saturates; behind `pred` as it is, Keras finds the logits. The post says 50% of each term, and adds the two.
# %%
def reconstruction_loss(true, pred):
    """Return the cross-entropy (batch,) of (batch, height, width, channels) in [0, 1]."""
    return K.sum(binary_crossentropy(true, pred), axis=[1, 2]) * num_channels
# %%
def kl_loss(true, pred):
    """Return the divergence (batch,) of N(mu, exp(sigma)) from the standard normal."""
    return -0.5 * K.sum(1 + sigma - K.square(mu) - K.exp(sigma), axis=-1)
# %%
def kl_reconstruction_loss(true, pred):
    """Return the loss, a scalar, of (batch, height, width, channels) in [0, 1]."""
    return K.mean(reconstruction_loss(true, pred) + kl_loss(true, pred))

# %% [markdown]
# ## Not in the post: a training that is saved, and goes on
# `vae_weights.h5` is written anew after each epoch: weights, optimizer and the losses of all epochs, which is
# what `--weights` goes on from. Ctrl-C, or a notebook's stop button, ends the training after the batch at hand.
# %%
class SaveTraining(keras.callbacks.Callback):
    """Save the training after each epoch, whole or not."""
    saved_in = Path(given.get('weights', 'no file yet'))

    def on_train_begin(self, logs=None):
        self.interrupted = False
        self.before = signal.signal(signal.SIGINT, self.interrupt)
        if training['optimizer']:
            self.model.optimizer.set_weights(training['optimizer'])

    def interrupt(self, number, frame):
        self.interrupted = True

    def on_train_batch_end(self, batch, logs=None):
        if self.interrupted:
            self.model.stop_training = True
    on_test_batch_end = on_train_batch_end

    def on_epoch_end(self, epoch, logs=None):
        row = {'epoch': epoch, **{name: float(loss) for name, loss in logs.items()}}
        optimizer = self.model.optimizer.get_weights()
        numbers = [*row.values(), *self.model.get_weights(), *optimizer]
        if not all(np.isfinite(number).all() for number in numbers):
            self.on_train_end()
            sys.exit(f'error: a loss or weight is not finite in epoch {epoch + 1}: {row}; the '
                     f'last good ones are in {self.saved_in}; a larger --batch-size may help')
        if not self.interrupted:
            training['losses'].append(row)
            lines = [','.join(map(str, epoch.values())) for epoch in training['losses']]
            (output_dir / 'history.csv').write_text('\n'.join([','.join(row), *lines, '']))
        elif weights_file.exists() and self.saved_in.resolve() != weights_file:
            print(f'Less than an epoch is not saved over the training in {weights_file}.')
            return
        training['optimizer'] = optimizer
        # Under a name that ends in .weights.h5, Keras would save no weights in graph mode.
        self.model.save_weights(part)
        with h5py.File(part, 'a') as file:
            file['losses'] = json.dumps(training['losses'])
            for k, array in enumerate(optimizer):
                file[f'optimizer/{k}'] = array
        os.replace(part, weights_file)
        SaveTraining.saved_in = weights_file

    def on_train_end(self, logs=None):
        signal.signal(signal.SIGINT, self.before)
        if self.interrupted:
            print(f'\nInterrupted with {len(training["losses"])} whole epochs in.')
# %%
output_dir = Path(given.get('output_dir', script.parent / 'outputs' / architecture))
weights_file = (output_dir / 'vae_weights.h5').resolve()
part = output_dir / f'vae_weights_{os.getpid()}.h5'  # Each process has one of its own.
training = {'optimizer': [], 'losses': [], **earlier}
if 'weights' in given:
    with answering(f'{given["weights"]} does not fit {architecture} for {input_shape} images',
                   'name other weights, or their own --architecture and --data'):
        vae.load_weights(given['weights'])
        for array in vae.get_weights():
            np.asarray_chkfinite(array)
with answering(f'{output_dir} cannot take the results', 'name another --output-dir'):
    output_dir.mkdir(parents=True, exist_ok=True)
    part.touch()
    part.unlink()
if no_epochs and weights_file.exists() and SaveTraining.saved_in.resolve() != weights_file:
    print(f'note: the training in {weights_file} will be replaced', file=sys.stderr)

# %% [markdown]
# ## Compilation & training
# The post sets `verbosity`, but does not hand it on. The loss of the test set, by which runs can be compared, is new.
# %%
vae.compile(optimizer='adam', loss=kl_reconstruction_loss,
            metrics=[reconstruction_loss, kl_loss])
history = vae.fit(input_train, input_train, batch_size=batch_size, verbose=verbosity,
                  validation_split=validation_split, initial_epoch=len(training['losses']),
                  epochs=len(training['losses']) + no_epochs,
                  callbacks=[keras.callbacks.TerminateOnNaN(), SaveTraining()])
# %%
losses = np.ravel(vae.evaluate(input_test, input_test, batch_size=batch_size, verbose=0))
print('Test', *[f'{name}: {loss:.2f}' for name, loss in zip(vae.metrics_names, losses)])

# %% [markdown]
# ## Visualizing inputs mapped onto latent space
# The post credits both visualizers to François Chollet. It shows each figure at once; here each is saved first,
# and one that fails costs no other. Labels have colours in their order, and may be words.
# %%
@contextmanager
def drawing(name):
    """Save the figure that is drawn within; say so where that fails."""
    try:
        yield
        if plt.get_fignums():  # The post's own functions show a figure, and it is gone.
            plt.savefig(output_dir / name)
    except Exception as error:
        found, _, _ = str(error).partition('\n')
        print(f'warning: {name} cannot be drawn ({found})', file=sys.stderr)
# %%
def viz_latent_space(encoder, data):
    """Draw mu, coloured by label; data is images as in the fit, and labels (n,) or None."""
    input_data, target_data = data
    mu, _, _ = encoder.predict(input_data)
    plt.figure(figsize=(8, 10), layout='constrained')
    plt.xlabel('z - dim 1')
    plt.ylabel('z - dim 2')
    if latent_dim > 2:
        plt.suptitle(f'the first 2 of {latent_dim} dimensions')
    if target_data is None:
        plt.scatter(mu[:, 0], mu[:, 1])
        return
    classes, ranks = np.unique(target_data, return_inverse=True)
    plt.scatter(mu[:, 0], mu[:, 1], c=ranks)
    if classes.dtype.kind == 'S':
        classes = np.char.decode(classes, 'utf-8', 'replace')
    ticks = np.arange(0, len(classes), 1 + len(classes) // 21)  # More than 20 would overlap.
    plt.colorbar(ticks=ticks).set_ticklabels(classes[ticks], parse_math=False)

# %% [markdown]
# ## Visualizing samples from the latent space
# The post calls `predict` 225 times; one call is several times faster. Its 16 tick positions for 15 labels are an
# error today, and the same on both axes. Pictures larger than what the figure can show are made smaller.
# %%
def viz_decoded(encoder, decoder, data):
    """Draw what the decoder makes of 15 by 15 points of [-4, 4] squared, the top row at +4."""
    num_samples = 15
    grid_x = np.linspace(-4, 4, num_samples)
    grid_y = np.linspace(-4, 4, num_samples)[::-1]
    z_samples = np.array([[xi, yi] + [0] * (latent_dim - 2) for yi in grid_y for xi in grid_x])
    pool_size = max(1, img_height // 66), max(1, img_width // 66)
    shrunk = Model(decoder.input, AveragePooling2D(pool_size)(decoder.output))
    x_decoded = shrunk.predict(z_samples, batch_size=batch_size)
    figure = np.vstack([np.hstack(row) for row in np.split(x_decoded, num_samples)])
    plt.figure(figsize=(10, 10), layout='constrained')
    height, width = x_decoded.shape[1:3]
    plt.xticks(np.arange(num_samples) * width + width // 2, np.round(grid_x, 1))
    plt.yticks(np.arange(num_samples) * height + height // 2, np.round(grid_y, 1))
    plt.xlabel('z - dim 1')
    plt.ylabel('z - dim 2')
    plt.imshow(figure)

# %% [markdown]
# ## Calling the visualizers
# The post's DCGAN-like section has a third figure: the scatter again, where most digits are.
# %%
data = (input_test, target_test)
with drawing('latent_space.png'):
    viz_latent_space(encoder, data)
with drawing('decoded_digits.png'):
    viz_decoded(encoder, decoder, data)
# %%
places, _, _ = encoder.predict(input_test)
outside = np.sum(np.any(np.abs(places[:, :2]) > 4, axis=1))
(output_dir / 'latent_space_zoom.png').unlink(missing_ok=True)  # It may be an earlier run's.
if outside:
    with drawing('latent_space_zoom.png'):
        viz_latent_space(encoder, data)
        plt.xlim(-4, 4)
        plt.ylim(-4, 4)
        plt.title(f'{outside:,} of {len(places):,} lie outside')

# %% [markdown]
# ## Not in the post: the losses over the epochs
# %%
if training['losses']:
    with drawing('loss.png'):
        plt.figure(figsize=(8, 10), layout='constrained')
        epochs = [row['epoch'] + 1 for row in training['losses']]
        for place, name in enumerate(vae.metrics_names, start=1):
            plt.subplot(len(vae.metrics_names), 1, place)
            for key, label in [(name, 'training'), (f'val_{name}', 'validation')]:
                values = [row.get(key) for row in training['losses']]
                plt.plot(epochs, values, '.-', label=label)
            plt.ylabel(name)
            plt.legend()
            plt.locator_params(axis='x', integer=True)
        plt.xlabel('epoch')
print(f'The figures are in {output_dir}')
plt.show()
