"""
A convolutional variational autoencoder (VAE) with Keras, trained on MNIST.

A port of the blog post 'How to create a variational autoencoder with Keras' to today's TensorFlow.
The cells have the post's headings, in the post's order. A comment that begins with 'The post' says
where the code departs from it, and why. What the post does not have stands behind its own cells, in
cells whose titles begin with 'Not in the post'.

    python variational_autoencoder.py --help
"""

# %% Before TensorFlow is imported
import os
import warnings

# oneDNN then keeps the convolutions that it has set up for a step, which saves 3% of the time.
os.environ.setdefault('TF_MKL_OPTIMIZE_PRIMITIVE_MEMUSE', 'false')
# These two silence notes that a reader can do nothing about.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
warnings.filterwarnings('ignore', message='.Model.state_updates')

# %% Model imports
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
# The post imports keras, which is Keras 3 today and lacks some of what the post calls; tf_keras is Keras 2.
from tf_keras import backend as K
from tf_keras.datasets import mnist
from tf_keras.layers import BatchNormalization, Conv2D, Conv2DTranspose, Dense, Flatten, Input, Lambda, Reshape
from tf_keras.models import Model

# Keras 2 calls what TensorFlow has deprecated, which a reader cannot help either.
tf.get_logger().setLevel('ERROR')
# The loss reads mu and sigma, which are not its arguments; TensorFlow allows that in graph mode only. The
# post suggests run_functions_eagerly, which no longer helps; this line is from a comment below the post.
tf.compat.v1.disable_eager_execution()


# %% Loading data
def load_data():
    """Load MNIST: images (n, 28, 28) from 0 to 255, and digits (n,).

    Returns ((input_train, target_train), (input_test, target_test)).
    """
    # The post always calls mnist.load_data(), which downloads the digits; this repository has a copy of them.
    if mnist_copy.exists():
        return load_npz(mnist_copy)
    return mnist.load_data()


# %% Model configuration
# The post has img_width, img_height and num_channels here; preprocess takes them from the images.
batch_size = 128
no_epochs = 100
validation_split = 0.2
verbosity = 1
latent_dim = 2

# The post has no seed, and writes each network out. Its DCGAN-like listing is 'dcgan'; the summary under that
# listing is the one of 'dcgan-as-published'. A network that does not say otherwise trains for no_epochs.
seed = 42
architecture = 'original'
architectures = {
    'original': {'encoder_filters': [8, 16], 'decoder_filters': [16, 8], 'kernel_size': 3},
    'dcgan': {'encoder_filters': [128, 256, 512, 1024], 'decoder_filters': [1024, 512, 256, 128],
              'kernel_size': 5, 'no_epochs': 5},
    'dcgan-as-published': {'encoder_filters': [1024], 'decoder_filters': [128],
                           'kernel_size': 5, 'no_epochs': 5},
}


# %% Data preprocessing
def preprocess(images, name='the images'):
    """Return images as (n, img_height, img_width, num_channels), float32 in [0, 1].

    images is (n, img_height, img_width), or that with 1 or 3 channels behind: integers from 0 to 255,
    or floating point values in [0, 1]. Raises UserError, with their name, for others.
    """
    check_images(images, name)
    # The post swaps width and height here, which scrambles images that are not square.
    img_height, img_width = images.shape[1:3]
    num_channels = images.shape[3] if images.ndim == 4 else 1
    images = images.reshape(len(images), img_height, img_width, num_channels)
    # The post divides all pixels by 255; floating point images lie in [0, 1] already.
    largest = 255 if images.dtype.kind in 'ui' else 1
    return images.astype('float32') / largest


# %% Creating the encoder
def sample_z(args):
    """Draw z = mu + exp(sigma / 2) * eps, eps from the standard normal distribution.

    args is [mu, sigma]; they and z are (batch, latent_dim), any real numbers. This is the
    reparameterization trick: Kingma & Welling (2013), arXiv:1312.6114, section 2.4.
    """
    # The post's text has sigma as the standard deviations, and z = mu + sigma^2 * eps. Its code differs, and
    # is right: sigma is the logarithm of the variance.
    mu, sigma = args
    batch = K.shape(mu)[0]
    dim = K.int_shape(mu)[1]
    eps = K.random_normal(shape=(batch, dim))
    return mu + K.exp(sigma / 2) * eps


def create_encoder(input_shape=(28, 28, 1), architecture='original'):
    """Build the encoder: images (batch, height, width, channels) in [0, 1] to [mu, sigma, z].

    Each of the three is (batch, latent_dim). Returns the encoder, and conv_shape for create_decoder:
    the shape (None, height, width, filters) behind the last convolution.
    """
    layers = architectures[architecture]
    i = Input(shape=input_shape, name='encoder_input')
    cx = i
    # The post writes each pair of layers out; the loop builds any of the three networks.
    for filters in layers['encoder_filters']:
        cx = Conv2D(filters=filters, kernel_size=layers['kernel_size'], strides=2, padding='same',
                    activation='relu')(cx)
        cx = BatchNormalization()(cx)
    x = Flatten()(cx)
    x = Dense(20, activation='relu')(x)
    x = BatchNormalization()(x)
    mu = Dense(latent_dim, name='latent_mu')(x)
    sigma = Dense(latent_dim, name='latent_sigma')(x)

    # The decoder starts from the shape that the last convolution ends in.
    conv_shape = K.int_shape(cx)

    z = Lambda(sample_z, output_shape=(latent_dim,), name='z')([mu, sigma])
    encoder = Model(i, [mu, sigma, z], name='encoder')
    return encoder, conv_shape


# %% Creating the decoder
def create_decoder(conv_shape, input_shape=(28, 28, 1), architecture='original'):
    """Build the decoder: z (batch, latent_dim) to images (batch, height, width, channels) in [0, 1].

    Raises UserError where the decoder's filters are too few for the size of the images.
    """
    layers = architectures[architecture]
    img_height, img_width, num_channels = input_shape
    d_i = Input(shape=(latent_dim,), name='decoder_input')
    x = Dense(conv_shape[1] * conv_shape[2] * conv_shape[3], activation='relu')(d_i)
    x = BatchNormalization()(x)
    cx = Reshape((conv_shape[1], conv_shape[2], conv_shape[3]))(x)
    for filters in layers['decoder_filters']:
        cx = Conv2DTranspose(filters=filters, kernel_size=layers['kernel_size'], strides=2, padding='same',
                             activation='relu')(cx)
        cx = BatchNormalization()(cx)
    # The post does not crop: its DCGAN-like decoder ends at 32 by 32 pixels, which fit no digit of 28 by 28.
    cx = crop(cx, img_height, img_width)
    o = Conv2DTranspose(filters=num_channels, kernel_size=3, activation='sigmoid', padding='same',
                        name='decoder_output')(cx)
    return Model(d_i, o, name='decoder')


# %% Creating the whole VAE
def create_vae(encoder, decoder):
    """Build the VAE: images (batch, height, width, channels) in [0, 1] to images like them.

    Returns it with the mu and sigma, (batch, latent_dim), that the loss is to read.
    """
    # The post calls the encoder on its own input i, while its loss reads the mu and sigma from before that
    # call. The encoder then runs twice in each step, and its batch normalization moves twice. With an input
    # of the VAE's own it runs once.
    i = Input(shape=encoder.input_shape[1:], name='encoder_input')
    mu, sigma, z = encoder(i)
    vae_outputs = decoder(z)
    vae = Model(i, vae_outputs, name='vae')
    return vae, mu, sigma


# %% Defining custom VAE loss function
def create_loss(mu, sigma):
    """Define the loss, the negative evidence lower bound: Kingma & Welling (2013), arXiv:1312.6114, equation 10.

    mu and sigma are the VAE's, (batch, latent_dim). Returns kl_reconstruction_loss(true, pred), a scalar
    for images (batch, height, width, channels) in [0, 1], and a list of its two parts, (batch,) each.
    """
    def reconstruction_loss(true, pred):
        # The post takes the mean over the flattened batch times width times height, which counts one channel
        # only; the sum over an image counts all. The post's flattened pred is clipped as well, so that there is
        # no gradient where the sigmoid saturates; from pred as it is, Keras finds the logits, and computes the
        # same value from those.
        return K.sum(K.binary_crossentropy(true, pred), axis=[1, 2, 3])

    def kl_loss(true, pred):
        return -0.5 * K.sum(1 + sigma - K.square(mu) - K.exp(sigma), axis=-1)

    def kl_reconstruction_loss(true, pred):
        # The post calls this 50% of each; its code, as this, adds the two.
        return K.mean(reconstruction_loss(true, pred) + kl_loss(true, pred))

    return kl_reconstruction_loss, [reconstruction_loss, kl_loss]


# %% Compilation & training
def compile_vae(vae, kl_reconstruction_loss, parts):
    """Compile the VAE with what create_loss returns."""
    # The post prints the loss alone; its two parts, as metrics, tell whether the KL term behaves.
    vae.compile(optimizer='adam', loss=kl_reconstruction_loss, metrics=parts)


def train(vae, input_train, epochs=no_epochs, batch_size=batch_size, initial_epoch=0, verbose=verbosity,
          callbacks=None):
    """Fit the compiled VAE to images (n, height, width, channels) in [0, 1]; return Keras's History."""
    # The post sets verbosity, but does not pass it to fit.
    return vae.fit(input_train, input_train, epochs=epochs, batch_size=batch_size,
                   validation_split=validation_split, initial_epoch=initial_epoch, verbose=verbose,
                   callbacks=callbacks)


# %% Visualizing inputs mapped onto latent space
# The post credits François Chollet's example in the Keras documentation for both visualizers. It shows each
# figure at once; here plt.show() is left to the caller, who may want to save the figures first.
def viz_latent_space(encoder, data):
    """Draw where the encoder puts images: mu, coloured by label.

    data is (images, labels): (n, height, width, channels) in [0, 1], and (n,) or None.
    """
    input_data, target_data = data
    mu, _, _ = encoder.predict(input_data)
    # The post has matplotlib's wide margins; this layout fills the figure, and cuts no label off.
    plt.figure(figsize=(8, 10), layout='constrained')
    plt.scatter(mu[:, 0], mu[:, 1], c=label_colours(target_data))
    plt.xlabel('z - dim 1')
    plt.ylabel('z - dim 2')
    # The post's plt.colorbar() takes numbers only; labels may also be words, or missing.
    draw_colorbar(target_data)


# %% Visualizing samples from the latent space
def viz_decoded(encoder, decoder, data):
    """Draw what the decoder makes of 15 by 15 points of the latent space, [-4, 4] squared.

    The first row is at +4. encoder and data are arguments in the post too, and not used there either.
    """
    num_samples = 15
    img_height, img_width, num_channels = decoder.output_shape[1:]
    figure = np.zeros((img_height * num_samples, img_width * num_samples, num_channels))
    grid_x = np.linspace(-4, 4, num_samples)
    grid_y = np.linspace(-4, 4, num_samples)[::-1]
    # The post calls predict for each of the 225 points; one call for all of them is several times faster.
    z_samples = np.array([[xi, yi] for yi in grid_y for xi in grid_x])
    x_decoded = decoder.predict(z_samples)
    for i in range(num_samples):
        for j in range(num_samples):
            digit = x_decoded[i * num_samples + j]
            figure[i * img_height: (i + 1) * img_height,
                   j * img_width: (j + 1) * img_width] = digit

    plt.figure(figsize=(10, 10), layout='constrained')
    # The post has 16 positions for 15 labels, which matplotlib refuses today, and the same ones on both axes.
    pixel_range_x = np.arange(num_samples) * img_width + img_width // 2
    pixel_range_y = np.arange(num_samples) * img_height + img_height // 2
    plt.xticks(pixel_range_x, np.round(grid_x, 1))
    plt.yticks(pixel_range_y, np.round(grid_y, 1))
    plt.xlabel('z - dim 1')
    plt.ylabel('z - dim 2')
    # The post takes the channel off grey images first; matplotlib does that by itself today.
    plt.imshow(figure)


# %% Not in the post: your own images
import argparse
import builtins
import csv
import signal
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import h5py  # TensorFlow brings it along, for Keras's weights
from tf_keras.callbacks import Callback, CSVLogger
from tf_keras.layers import Cropping2D
from tf_keras.utils import set_random_seed


class UserError(ValueError):
    """What the user can put right. Its text says what is wrong, what was found, and what to do."""


# A notebook has no __file__; its working folder takes the place of the script's.
project = Path(__file__).resolve().parent if '__file__' in globals() else Path.cwd()
mnist_copy = project / 'tests' / 'data' / 'mnist.npz'


def load_npz(path):
    """Load an .npz file in the layout of Keras's mnist.npz, and return it as load_data does.

    y_train and y_test may be missing, and are None then. Raises UserError where the file cannot be read.
    """
    names = 'x_train', 'y_train', 'x_test', 'y_test'
    try:
        with np.load(path) as file:
            arrays = {name: np.asarray(file[name]) for name in names if name in file}
    except FileNotFoundError as error:
        raise UserError(f'there is no data file {path}; --data takes an .npz file') from error
    except Exception as error:  # broken files fail in many ways
        raise UserError(f'{path} cannot be read as an .npz file of plain arrays ({error}); '
                        'write it with numpy.savez') from error
    for name in 'x_train', 'x_test':
        if name not in arrays:
            raise UserError(f'{path} has no {name}; it needs x_train and x_test, and y_test if there are labels')
    for name in 'y_train', 'y_test':
        if name in arrays:
            arrays[name] = arrays[name].reshape(-1)  # some sets have them as (n, 1)
    return (arrays['x_train'], arrays.get('y_train')), (arrays['x_test'], arrays.get('y_test'))


def load_images(path):
    """Return load_npz of a path, and load_data without one; UserError where that cannot be had."""
    if path is not None:
        return load_npz(path)
    try:
        return load_data()
    except UserError:
        raise
    except Exception as error:  # a bare one is what Keras raises
        raise UserError(f'MNIST cannot be downloaded ({error}); put mnist.npz at {mnist_copy}, '
                        'or name such a file with --data') from error


def check_images(images, name):
    """Raise UserError unless preprocess can use these images."""
    found = f'{name} holds {images.dtype} of the shape {images.shape}'
    if images.dtype.kind not in 'buif':
        raise UserError(f'{found}; it must hold numbers')
    if images.ndim != 3 and not (images.ndim == 4 and images.shape[3] in (1, 3)):
        raise UserError(f'{found}; it must have the shape (n, height, width), (n, height, width, 1) '
                        'or (n, height, width, 3)')
    if images.size == 0:
        raise UserError(f'{found}, which is no image; it must hold some')
    low, high = images.min(), images.max()
    found = f'{name} holds {images.dtype} values from {low} to {high}'
    if np.isnan(low):
        raise UserError(f'{found}; leave out the images with NaN in them')
    if images.dtype.kind in 'ui' and (low < 0 or high > 255):
        raise UserError(f'{found}; integers must lie in 0 to 255')
    if images.dtype.kind == 'f' and (low < 0 or high > 1):
        raise UserError(f'{found}; floating point values must lie in [0, 1]: divide pixels of 0 to 255 by 255')


def check_data(input_train, input_test, target_test):
    """Raise UserError unless these preprocessed images and their labels fit each other."""
    if input_train.shape[1:] != input_test.shape[1:]:
        raise UserError(f'the images of x_train have the shape {input_train.shape[1:]}, those of x_test '
                        f'{input_test.shape[1:]}; they must have the same')
    if target_test is not None and target_test.shape != (len(input_test),):
        raise UserError(f'y_test has the shape {target_test.shape}; it must have ({len(input_test)},), '
                        'one label for each image of x_test')
    left = int(len(input_train) * (1 - validation_split))
    if left < 2 or left == len(input_train):
        raise UserError(f'x_train has too few images ({len(input_train)}): a validation split of {validation_split} '
                        f'leaves {left} to train on and {len(input_train) - left} to validate with; '
                        'there must be at least 2 and 1')


def crop(cx, img_height, img_width):
    """Cut a border off cx, (batch, height, width, filters), to leave images of this size.

    Raises UserError where cx is smaller than that.
    """
    _, height, width, _ = K.int_shape(cx)
    if height < img_height or width < img_width:
        raise UserError(f'the decoder ends at {height} by {width} pixels, short of {img_height} by {img_width}; '
                        'give it as many filters as the encoder has')
    if height == img_height and width == img_width:
        return cx
    above = (height - img_height) // 2
    below = height - img_height - above
    left = (width - img_width) // 2
    right = width - img_width - left
    return Cropping2D([(above, below), (left, right)])(cx)


def label_colours(target_data):
    """Return a number for each label; None without labels."""
    if target_data is None:
        return None
    if target_data.dtype.kind in 'uif':
        return target_data
    _, places = np.unique(target_data, return_inverse=True)
    return places


def draw_colorbar(target_data):
    """Draw the colour bar of a scatter in label_colours, if there are labels, with each of them at its colour."""
    if target_data is None:
        return
    labels = np.unique(target_data)
    if labels.dtype.kind == 'f' and len(labels) > 20:
        plt.colorbar()  # these are measurements rather than classes
        return
    step = 1 + len(labels) // 21  # more than 20 would overlap
    ticks = np.unique(label_colours(target_data))
    plt.colorbar(ticks=ticks[::step]).set_ticklabels(labels[::step])


# %% Not in the post: more figures
def viz_zoom(encoder, data):
    """Draw viz_latent_space once more within the square of viz_decoded, if images lie outside of it.

    The post shows its DCGAN-like latent space like that. Returns whether there was anything to draw.
    """
    input_data, target_data = data
    mu, _, _ = encoder.predict(input_data)
    outside = np.any(np.abs(mu) > 4, axis=1).sum()
    if outside == 0:
        return False
    viz_latent_space(encoder, data)
    plt.xlim(-4, 4)
    plt.ylim(-4, 4)
    plt.title(f'{outside:,} of {len(mu):,} lie outside')
    return True


def viz_loss(rows):
    """Draw the loss and its parts over the epochs, from the rows of history.csv, (epoch, losses) each."""
    epochs = [epoch + 1 for epoch, losses in rows]
    figure, axes = plt.subplots(3, figsize=(8, 10), layout='constrained', sharex=True)
    for axis, name in zip(axes, ['loss', 'reconstruction_loss', 'kl_loss']):
        axis.plot(epochs, [float(losses[name]) for epoch, losses in rows], '.-', label='training')
        axis.plot(epochs, [float(losses[f'val_{name}']) for epoch, losses in rows], '.-', label='validation')
        axis.set_ylabel(name)
        axis.legend()
    axis.set_xlabel('epoch')
    axis.xaxis.get_major_locator().set_params(integer=True)


def save_figure(path):
    """Save the current figure; UserError where that fails."""
    try:
        plt.savefig(path)
    except OSError as error:
        raise UserError(f'{path} cannot be saved ({error}); what was trained is in vae_weights.h5 there, and '
                        '--epochs 0 --weights with that file draws it again') from error


def show_figures():
    """Show the figures where there is a screen or a notebook."""
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='.*non-interactive')  # there is neither
        plt.show()
    plt.close('all')


# %% Not in the post: a training that is saved, and goes on
class TrainingError(RuntimeError):
    """The training came to nothing; the text says what is left of it, and what may help."""


def read_training(path, architecture, input_shape):
    """Read what SaveTraining keeps beside the weights; that of a new training where path is None.

    Raises UserError where the file is not of this network, or is no file of weights.
    """
    size = ' by '.join(map(str, input_shape))
    network = f'{architecture} for images of {size}'
    training = {'network': network, 'epochs': 0, 'loss': 0.0, 'optimizer': []}
    if path is None:
        return training
    if path.name.endswith('.weights.h5'):
        raise UserError(f'{path} has an ending that is another format to Keras; rename it to plain .h5')
    try:
        with h5py.File(path) as file:
            found = file.attrs.get('network', network)
            if 'optimizer' in file:
                training['epochs'] = int(file.attrs['epochs'])
                training['loss'] = float(file.attrs['loss'])
                training['optimizer'] = [file[f'optimizer/{k}'][()] for k in range(len(file['optimizer']))]
    except FileNotFoundError as error:
        raise UserError(f'there is no weights file {path}; --weights takes a vae_weights.h5') from error
    except Exception as error:  # broken files fail in many ways
        raise UserError(f'{path} cannot be read as a file of weights ({error}); '
                        '--weights takes a vae_weights.h5') from error
    if found != network:
        raise UserError(f'{path} holds weights of {found}, this run needs those of {network}; '
                        'name other weights, or their own --architecture and --data')
    return training


def steps_behind(training):
    """Return how many steps the optimizer has made."""
    return int(training['optimizer'][0]) if training['optimizer'] else 0


def load_weights(vae, path, training):
    """Set the VAE's weights from a file; UserError where these, or the optimizer's of read_training, do not fit."""
    try:
        vae.load_weights(path)
    except Exception as error:  # broken files fail in many ways
        raise UserError(f'the weights in {path} do not fit {training["network"]} ({error}); '
                        'name other weights, or their own --architecture and --data') from error
    moments = [weight.shape for weight in vae.trainable_weights]
    if training['optimizer'] and [array.shape for array in training['optimizer']] != [(), *moments, *moments]:
        raise UserError(f'the optimizer in {path} does not fit {training["network"]}; name other weights')
    if not all_finite(vae.get_weights() + training['optimizer']):
        raise UserError(f'{path} holds numbers that are NaN or infinite; name other weights')


def all_finite(arrays):
    """Return whether no number in these arrays is NaN or infinite."""
    return all(np.isfinite(array).all() for array in arrays)


def read_history(path, training):
    """Return the rows (epoch, losses) of a history.csv up to where a training was saved; none of another training."""
    try:
        with open(path, newline='') as file:
            rows = [(int(row.pop('epoch')), row) for row in csv.DictReader(file)]
        rows = [(epoch, losses) for epoch, losses in rows if epoch < training['epochs']]
        epoch, losses = rows[-1]
        its_own = epoch == training['epochs'] - 1 and float(losses['loss']) == training['loss']
    except (OSError, ValueError, LookupError, TypeError, csv.Error):  # there is none, or something else
        return []
    return rows if its_own else []


def write_history(path, rows):
    """Write rows (epoch, losses) as Keras's CSVLogger does."""
    logger = CSVLogger(path)
    logger.on_train_begin()
    for epoch, losses in rows:
        logger.on_epoch_end(epoch, losses)
    logger.on_train_end()


def reserve(path, size):
    """Make a file of that many bytes; OSError where the disk is too full for it."""
    with open(path, 'wb') as file:
        if hasattr(os, 'posix_fallocate'):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.write(bytes(size))


class SaveTraining(Callback):
    """Keep a training on the disk, with all that it needs to go on, and its history.

    training is read_training's, and source the file that it goes on from, or None. What an earlier
    run left in output_dir is not replaced before a whole epoch is in.
    """
    def __init__(self, vae, output_dir, training, source=None):
        super().__init__()
        self.vae = vae
        self.training = training
        self.source = source
        self.weights = output_dir / 'vae_weights.h5'
        self.history = output_dir / 'history.csv'
        self.rows = read_history(self.history, training)
        self.steps = steps_behind(training)
        self.interrupted = False
        goes_on_here = source is not None and source.resolve() == self.weights.resolve()
        self.may_replace = goes_on_here or not self.weights.exists()

    def on_train_begin(self, logs=None):
        # Only now do the optimizer's variables exist.
        if self.training['optimizer']:
            self.vae.optimizer.set_weights(self.training['optimizer'])

    def on_train_batch_end(self, batch, logs=None):
        self.check(logs)
        self.stop_if_interrupted()

    def on_test_batch_end(self, batch, logs=None):
        self.stop_if_interrupted()

    def on_epoch_end(self, epoch, logs=None):
        self.check(logs)
        self.check_weights()
        self.may_replace = True
        self.rows.append((epoch, dict(logs)))
        self.training['epochs'] = epoch + 1
        self.training['loss'] = float(logs['loss'])
        self.save()

    def interrupt(self, number, frame):
        """Handle Ctrl-C: leave it to the end of the batch."""
        self.interrupted = True

    def stop_if_interrupted(self):
        """Raise KeyboardInterrupt if there was a Ctrl-C."""
        if self.interrupted:
            raise KeyboardInterrupt

    def check(self, logs):
        """Raise TrainingError unless every loss is finite."""
        for name, loss in logs.items():
            if not np.isfinite(loss):
                self.give_up(f'{name} is {loss}')

    def check_weights(self):
        """Raise TrainingError unless weights and optimizer are finite."""
        if not all_finite(self.vae.get_weights() + self.vae.optimizer.get_weights()):
            self.give_up('a weight is not finite')

    def give_up(self, why):
        """Raise TrainingError, with where the last good weights are and what may help."""
        left = 'no whole epoch was finished before, and nothing was saved'
        if self.may_replace and self.weights.exists():
            left = f'what was learnt before is in {self.weights}'
        elif self.source is not None:
            left = f'what was learnt before is in {self.source}'
        raise TrainingError(
            f'{why} in epoch {self.training["epochs"] + 1}, and training has stopped; {left}. A larger --batch-size '
            'usually helps, and so does random order: the last images of x_train are those it is validated with')

    def save(self):
        """Save weights, optimizer and history; on a full disk leave them as they were, and say so."""
        optimizer = self.vae.optimizer.get_weights()
        # A name that ends in .weights.h5 would be another format, in which Keras saves no weights in graph mode.
        part = self.weights.with_name('vae_weights_part.h5')
        history_part = self.history.with_name('history_part.csv')
        try:
            # On a full disk HDF5 ends the whole program, a plain file does not.
            reserve(part, 4 * self.vae.count_params() + sum(array.nbytes for array in optimizer) + 2**18)
            self.vae.save_weights(part)
            with h5py.File(part, 'a') as file:
                for name in 'network', 'epochs', 'loss':
                    file.attrs[name] = self.training[name]
                for k, array in enumerate(optimizer):
                    file[f'optimizer/{k}'] = array
            if self.rows:
                write_history(history_part, self.rows)
                os.replace(history_part, self.history)
            os.replace(part, self.weights)
            self.steps = int(optimizer[0])
        except (OSError, tf.errors.OpError) as error:
            part.unlink(missing_ok=True)
            history_part.unlink(missing_ok=True)
            print(f'\nwarning: the training cannot be saved now ({error}); {self.weights} stays as it was',
                  file=sys.stderr)

    def save_broken_epoch(self):
        """Save what has been learnt since the last save, but not over an earlier run's training."""
        if K.get_value(self.vae.optimizer.iterations) <= self.steps:
            return
        if not self.may_replace:
            print(f'\nLess than an epoch is not saved over the training in {self.weights}.')
            return
        self.check_weights()
        self.save()


@contextmanager
def ctrl_c(handler):
    """Give Ctrl-C to this handler for a while, unless it is ignored, or not for this thread to give.

    Python's own handler raises KeyboardInterrupt wherever the program is; amid TensorFlow's code that may get
    lost, or come out as another error.
    """
    before = signal.getsignal(signal.SIGINT)
    if before in (None, signal.SIG_IGN) or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def train_and_save(vae, input_train, settings, training):
    """Call train, and keep on the disk what it learns, however it ends. Return the rows of the history."""
    if settings.weights and not training['optimizer']:
        print(f'note: {settings.weights} holds weights alone; the optimizer starts anew, and so does the count '
              'of epochs', file=sys.stderr)
    saving = SaveTraining(vae, settings.output_dir, training, settings.weights)
    # A progress bar that is drawn over and over is for eyes, not for log files.
    watched = sys.stdout.isatty() or hasattr(builtins, '__IPYTHON__')
    verbose = verbosity
    if verbosity == 1 and not watched:
        verbose = 2
    with ctrl_c(saving.interrupt):
        try:
            train(vae, input_train, epochs=training['epochs'] + settings.epochs, batch_size=settings.batch_size,
                  initial_epoch=training['epochs'], verbose=verbose, callbacks=[saving])
        except KeyboardInterrupt:
            saving.save_broken_epoch()
        except BrokenPipeError:
            saving.save_broken_epoch()
            raise
    if saving.interrupted:
        print(f'\nInterrupted with {training["epochs"]} whole epochs in; on to the test loss and the figures. '
              'A second Ctrl-C ends it at once.', flush=True)
    return saving.rows


# %% Not in the post: the command line
class Parser(argparse.ArgumentParser):
    """argparse, with its errors as ours."""
    def error(self, message):
        raise UserError(message)


def parse(arguments):
    """Make settings of command-line arguments; the defaults stand in 'Model configuration'."""
    parser = Parser(
        description='Train a variational autoencoder on MNIST, or on your own images, and draw its latent space.',
        epilog="There are two DCGAN-like networks, because the post's DCGAN-like listing (dcgan) is not the "
               'network of the summary under it (dcgan-as-published).')
    names = ', '.join(architectures)
    epochs = {name: layers.get('no_epochs', no_epochs) for name, layers in architectures.items()}
    epochs_of_each = ', '.join(f'{number} for {name}' for name, number in epochs.items())
    flag = parser.add_argument
    flag('--architecture', metavar='NAME', choices=architectures, default=architecture,
         help=f'{names} (default: %(default)s)')
    flag('--epochs', metavar='N', type=int,
         help=f'0 trains nothing and only draws (default: {epochs_of_each})')
    flag('--batch-size', metavar='N', type=int, default=batch_size, help='(default: %(default)s)')
    flag('--data', metavar='FILE.npz', type=Path,
         help='images x_train and x_test, and y_test if there are labels (default: MNIST)')
    flag('--weights', metavar='FILE', type=Path,
         help='go on from this training: a vae_weights.h5 (default: a new one)')
    flag('--seed', metavar='N', type=int, default=seed, help='(default: %(default)s)')
    flag('--output-dir', metavar='DIR', type=Path, help='(default: outputs/<architecture> next to the script)')
    settings = parser.parse_args(arguments)
    if settings.epochs is None:
        settings.epochs = epochs[settings.architecture]
    if settings.output_dir is None:
        settings.output_dir = project / 'outputs' / settings.architecture
    check_number('number of epochs', settings.epochs, 0, 10**6)
    if settings.batch_size == 1:
        raise UserError('the batch size is 1; it must be at least 2, since batch normalization takes the variance '
                        'over a batch')
    check_number('batch size', settings.batch_size, 2, 10**6)
    check_number('seed', settings.seed, 0, 2**32 - 1)
    if latent_dim != 2:
        raise UserError(f'the latent dimension is {latent_dim}; it must be 2, for the figures have two')
    return settings


def check_number(name, value, low, high):
    """Raise UserError unless this is a whole number in that range."""
    if not isinstance(value, int) or value < low or value > high:
        raise UserError(f'the {name} is {value}; it must be a whole number from {low} to {high}')


def check_output_dir(output_dir):
    """Make the folder; UserError where it cannot be written."""
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output_dir).close()
    except OSError as error:
        raise UserError(f'{output_dir} cannot take the results ({error}); '
                        'name another folder with --output-dir') from error


def start():
    """Call main as the script was called, and answer what goes wrong in one line."""
    if hasattr(builtins, '__IPYTHON__'):  # a notebook shows errors itself
        return main(command_line())
    try:
        with ctrl_c(signal.SIG_DFL):  # ends the program at once
            result = main(command_line())
        sys.stdout.flush()
        return result
    except UserError as error:
        complain(error)
        sys.exit(2)
    except TrainingError as error:
        complain(error)
        sys.exit(1)
    except BrokenPipeError:  # whoever read the output has gone, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def command_line():
    """Return the script's own arguments; none where sys.argv is a kernel's, since the script was pasted."""
    if '__file__' in globals() and Path(sys.argv[0]).resolve() == Path(__file__).resolve():
        return sys.argv[1:]
    return []


def complain(error):
    print('error: ' + ' '.join(str(error).splitlines()), file=sys.stderr)


# %% Time to run it!
def main(arguments=()):
    """Train and draw as command-line arguments say; return encoder, decoder and vae.

    Raises UserError for what the user can put right, before anything is trained or written, and
    TrainingError where the loss is not finite.
    """
    settings = parse(arguments)
    (input_train, target_train), (input_test, target_test) = load_images(settings.data)
    input_train = preprocess(input_train, 'x_train')
    input_test = preprocess(input_test, 'x_test')
    check_data(input_train, input_test, target_test)
    input_shape = input_train.shape[1:]

    training = read_training(settings.weights, settings.architecture, input_shape)
    K.clear_session()  # a second run in a notebook is then the same as the first
    # A training that goes on draws other random numbers than it did before.
    set_random_seed((settings.seed + steps_behind(training)) % 2**32)
    encoder, conv_shape = create_encoder(input_shape, settings.architecture)
    decoder = create_decoder(conv_shape, input_shape, settings.architecture)
    vae, mu, sigma = create_vae(encoder, decoder)
    kl_reconstruction_loss, parts = create_loss(mu, sigma)
    compile_vae(vae, kl_reconstruction_loss, parts)
    if settings.weights:
        load_weights(vae, settings.weights, training)
    check_output_dir(settings.output_dir)
    for model in encoder, decoder, vae:
        model.summary()

    rows = []
    if settings.epochs:
        rows = train_and_save(vae, input_train, settings, training)
    # The post judges by its figures alone; the test loss makes runs comparable.
    loss, reconstruction_loss, kl_loss = vae.evaluate(
        input_test, input_test, batch_size=settings.batch_size, verbose=0)
    print(f'Test loss: {loss:.2f} (reconstruction {reconstruction_loss:.2f}, KL {kl_loss:.2f})')

    data = (input_test, target_test)
    viz_latent_space(encoder, data)
    save_figure(settings.output_dir / 'latent_space.png')
    zoomed = settings.output_dir / 'latent_space_zoom.png'
    zoomed.unlink(missing_ok=True)  # it may be an earlier run's
    if viz_zoom(encoder, data):
        save_figure(zoomed)
    viz_decoded(encoder, decoder, data)
    save_figure(settings.output_dir / 'decoded_digits.png')
    if rows:
        viz_loss(rows)
        save_figure(settings.output_dir / 'loss.png')
    print(f'The figures are in {settings.output_dir}')
    show_figures()
    return encoder, decoder, vae


if __name__ == '__main__':
    encoder, decoder, vae = start()
