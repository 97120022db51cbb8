# %% [markdown]
# # A variational autoencoder with Keras
# This page ports a blog post by Christian Versloot to today's TensorFlow: [How to create a
# variational autoencoder with Keras](
# https://github.com/christianversloot/machine-learning-articles/blob/main/how-to-create-a-variational-autoencoder-with-keras.md).
#
# Read it beside the post, which explains each step. Headings, names and layers follow the post.
# The text above a cell says what the cell does and, where it differs from the post, how and
# why. Sections headed 'Not in the post' have to be run, but need not be read at first.
#
# To run it, first install its packages:
#
#     pip install tensorflow tf_keras matplotlib
#
# Then start `python variational_autoencoder.py`, or run its cells in a notebook, from top to
# bottom.

# %% [markdown]
# ## Model imports
# Import Keras, NumPy and Matplotlib, as the post does. New are TensorFlow itself, h5py (which
# comes with TensorFlow) for the file of weights, the layer `Cropping2D`, and a few modules of
# Python's own.
#
# The post starts with `import keras`. Today that is Keras 3, which lacks functions that the
# post calls, such as `K.int_shape`. The package `tf_keras` is Keras 2, which has them.
#
# The last line of the cell switches eager execution off. With it on, training ends in an error,
# because the loss function reads tensors from inside the network, which a loss given to
# `compile` may do in graph mode only. A reader suggested this line in the comments at
# MachineCurve, where the post first appeared. The line that the post itself recommends,
# `tf.config.experimental_run_functions_eagerly(True)`, does not help.

# %%
import argparse
import os
import sys
import warnings
from pathlib import Path

# TensorFlow reads these two when it is imported. With the first, it prints less. The second turns on
# oneDNN, which TensorFlow leaves off on many processors, where training then takes twice as long.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '1')

import h5py
import tensorflow as tf
import tf_keras as keras
from tf_keras.layers import Conv2D, Conv2DTranspose, Input, Flatten, Dense, Lambda, Reshape
from tf_keras.layers import BatchNormalization, Cropping2D
from tf_keras.models import Model
from tf_keras.datasets import mnist
from tf_keras.losses import binary_crossentropy
from tf_keras import backend as K
import numpy as np
import matplotlib.pyplot as plt

# Hide TensorFlow's warnings, one that Keras 2 gives about its own code, and the one that matplotlib
# gives when it cannot open a window
tf.get_logger().setLevel('ERROR')
warnings.filterwarnings('ignore', message='`Model.state_updates`')
warnings.filterwarnings('ignore', message='.*non-interactive')

# Make room for the labels around a plot
plt.rcParams['figure.constrained_layout.use'] = True

tf.compat.v1.disable_eager_execution()

# %% [markdown]
# ## Not in the post: the command line
# Read the flags of the command line, as in `python variational_autoencoder.py --epochs 20`.
#
# In a notebook there are none: change the settings in the cells below instead. To use your own
# images, or to continue an earlier training run, replace the last line of this cell, for
# example with `flags = {'data': 'pictures.npz'}`.

# %%
parser = argparse.ArgumentParser('variational_autoencoder.py', argument_default=argparse.SUPPRESS)
parser.add_argument(
    '--architecture',
    choices=['original', 'dcgan', 'dcgan-9m'],
    help='default: original; the other two take hours without a GPU',
)
parser.add_argument(
    '--epochs',
    type=int,
    help='default: 100 for original, else 5; added to those in --weights; 0 only draws the figures',
)
parser.add_argument('--batch-size', type=int, help='default: 128')
parser.add_argument('--data', metavar='FILE.npz', help='your own images; default: MNIST')
parser.add_argument('--weights', metavar='FILE.h5', help='a vae_weights.h5 to continue from')
parser.add_argument('--seed', type=int, help='default: 42')
parser.add_argument('--output-dir', metavar='DIR', help='default: outputs/ARCHITECTURE')

# Read the flags only if this file itself was started. In a notebook, sys.argv belongs to Jupyter, and
# there is no __file__: any name in the current folder will do.
script = Path(globals().get('__file__', 'notebook'))
is_program = Path(sys.argv[0]).name == script.name
flags = vars(parser.parse_args()) if is_program else {}

# %% [markdown]
# ## Not in the post: your own images
# Define how to read a file of images, such as the one that `--data` names.


# %%
def load_data(path):
    """Return (x_train, y_train), (x_test, y_test) from an .npz file; missing labels are None.

    Images are (n, height, width) or (n, height, width, channels), all the same size, with 1 or 3
    channels; integers from 0 to 255, or floats from 0 to 1. The last fifth of x_train is used for
    validation, so its order should be random. Labels are (n,) or (n, 1); those of the test images
    colour a figure. A file that does not fit ends the program with status 2.
    """
    try:
        with np.load(path) as file:
            x_train, y_train = file['x_train'], file.get('y_train')
            x_test, y_test = file['x_test'], file.get('y_test')
    except Exception as error:
        parser.error(f'cannot use {path} ({error}); expected an .npz file with x_train and x_test')

    no_channels = x_train.ndim == 3
    good_channels = x_train.ndim == 4 and x_train.shape[3] in (1, 3)
    same_size = x_train.shape[1:] == x_test.shape[1:]
    is_empty = x_train.size == 0 or x_test.size == 0
    fits = (no_channels or good_channels) and same_size and not is_empty
    if not fits:
        found = f'x_train {x_train.shape} and x_test {x_test.shape}'
        expected = '(n, height, width) or (n, height, width, 1 or 3), the same size in both'
        parser.error(f'cannot use {path}: found {found}; expected {expected}')

    if y_test is not None:
        if y_test.size != len(x_test):
            parser.error(f'cannot use {path}: found {y_test.size} labels for {len(x_test)} test images')
        y_test = y_test.reshape(len(x_test))
    return (x_train, y_train), (x_test, y_test)


# %% [markdown]
# ## Loading data
# Load MNIST: 60,000 handwritten digits of 28 by 28 pixels to train with, and 10,000 to test.
#
# The post has Keras download the digits. Here Keras does so only if there is no
# `tests/data/mnist.npz` beside this script. `--data` replaces the digits with your own images.

# %%
mnist_copy = script.resolve().parent / 'tests' / 'data' / 'mnist.npz'
if 'data' in flags:
    (input_train, target_train), (input_test, target_test) = load_data(flags['data'])
elif mnist_copy.exists():
    (input_train, target_train), (input_test, target_test) = load_data(mnist_copy)
else:
    (input_train, target_train), (input_test, target_test) = mnist.load_data()

# %% [markdown]
# ## DCGAN-like architecture
# Choose one of three networks. `original` is the one that most of the post is about.
#
# The post ends with a deeper one, trained for 5 epochs. Here it is chosen before the settings,
# and its layers stand beside those of `original`. It comes in two versions, because the layers
# that the post lists do not match the summary that it shows below them. `dcgan` has the layers
# as listed, which make 60,755,129 parameters. `dcgan-9m` has the summary's 8,728,505. That is
# the number if each convolution takes the input of the first one, so that only the last one has
# an effect; here only that one is written out. According to a reader's comment, the decoder was
# once connected like this, and the author then corrected the list.

# %%
architecture = flags.get('architecture', 'original')

# %% [markdown]
# ## Model configuration
# Set the size of the images, and how to train.
#
# The post swaps width and height, which scrambles images that are not square. It sets the
# number of channels by hand; here it is read from the images. It trains for 100 epochs, and
# says in its text that the deeper network gets 5.

# %%
# Settings of data and model
img_height, img_width = input_train.shape[1], input_train.shape[2]
batch_size = 128
no_epochs = 100 if architecture == 'original' else 5
validation_split = 0.2
verbosity = 1
latent_dim = 2
num_channels = 1 if input_train.ndim == 3 else input_train.shape[3]

# %% [markdown]
# ### Not in the post: what the flags change
# Let the flags override the settings, and set two more: the seed of the random numbers, and the
# folder for the results.

# %%
no_epochs = flags.get('epochs', no_epochs)
batch_size = flags.get('batch_size', batch_size)
seed = flags.get('seed', 42)
output_dir = Path(flags.get('output_dir', f'outputs/{architecture}'))

# In a log, print one line per epoch instead of a progress bar
if is_program and not sys.stdout.isatty():
    verbosity = 2

# With one image per batch, batch normalization would turn all 20 neurons into zeros
if no_epochs < 0 or batch_size < 2:
    parser.error('--epochs must be at least 0, and --batch-size at least 2')

# %% [markdown]
# ## Data preprocessing
# Give the images a dimension for their channels, and scale the pixels to between 0 and 1.
#
# The post divides by 255, whatever the pixels are. Here only integers are divided, so floats
# must lie between 0 and 1 already. Pixels outside that range are refused, because with them the
# loss falls without end. So are images whose brightest pixel is nearly black: they may have
# been divided twice.

# %%
# A dimension for the channels
input_train = input_train.reshape(input_train.shape[0], img_height, img_width, num_channels)
input_test = input_test.reshape(input_test.shape[0], img_height, img_width, num_channels)
input_shape = (img_height, img_width, num_channels)

# Pixels as floats from 0 to 1
white = 255 if np.issubdtype(input_train.dtype, np.integer) else 1
input_train = input_train.astype('float32') / white
input_test = input_test.astype('float32') / white

for name, images in ('x_train', input_train), ('x_test', input_test):
    low, high = images.min(), images.max()
    if not (low >= 0 and 0.1 < high <= 1):
        found = f'pixels from {low * white:g} to {high * white:g}'
        parser.error(f'{name} has {found}; expected the whole range from 0 to {white}')

# %% [markdown]
# ## Creating the encoder
# Set the seed, so that runs on the same machine give the same network.
#
# The post sets none, and each run of it gives other figures.

# %%
keras.utils.set_random_seed(seed)

# %% [markdown]
# ### Encoder definition
# Shrink an image by convolutions, reduce it to 20 neurons, and compute from these a normal
# distribution in the latent space: `mu` is its mean, and `sigma` tells how wide it is.
#
# The post's text calls `sigma` the standard deviation. In its code, as here, it is the
# logarithm of the variance.

# %%
# Layers of the encoder
i = Input(shape=input_shape, name='encoder_input')
if architecture == 'original':
    cx = Conv2D(filters=8, kernel_size=3, strides=2, padding='same', activation='relu')(i)
    cx = BatchNormalization()(cx)
    cx = Conv2D(filters=16, kernel_size=3, strides=2, padding='same', activation='relu')(cx)
    cx = BatchNormalization()(cx)
elif architecture == 'dcgan':
    cx = Conv2D(filters=128, kernel_size=5, strides=2, padding='same', activation='relu')(i)
    cx = BatchNormalization()(cx)
    cx = Conv2D(filters=256, kernel_size=5, strides=2, padding='same', activation='relu')(cx)
    cx = BatchNormalization()(cx)
    cx = Conv2D(filters=512, kernel_size=5, strides=2, padding='same', activation='relu')(cx)
    cx = BatchNormalization()(cx)
    cx = Conv2D(filters=1024, kernel_size=5, strides=2, padding='same', activation='relu')(cx)
    cx = BatchNormalization()(cx)
elif architecture == 'dcgan-9m':
    cx = Conv2D(filters=1024, kernel_size=5, strides=2, padding='same', activation='relu')(i)
    cx = BatchNormalization()(cx)
x = Flatten()(cx)
x = Dense(20, activation='relu')(x)
x = BatchNormalization()(x)
mu = Dense(latent_dim, name='latent_mu')(x)
sigma = Dense(latent_dim, name='latent_sigma')(x)

# The decoder will start from the shape of the last convolution
conv_shape = K.int_shape(cx)

# %% [markdown]
# ### Reparameterization trick
# Draw a point `z` from that distribution, in a way that lets gradients reach `mu` and `sigma`;
# see Kingma & Welling (2013), [arXiv:1312.6114](https://arxiv.org/abs/1312.6114), section 2.4.
#
# The post's formula for it is mu + sigma^2 * eps. In its code, as here, eps is multiplied by
# the standard deviation, which is exp(sigma / 2).


# %%
def sample_z(args):
    """Draw z from N(mu, exp(sigma)), where args is [mu, sigma]; all three are (batch, latent_dim)."""
    mu, sigma = args
    batch = K.shape(mu)[0]
    dim = K.int_shape(mu)[1]
    eps = K.random_normal(shape=(batch, dim))
    return mu + K.exp(sigma / 2) * eps


# %%
# Make the drawing a layer of the network
z = Lambda(sample_z, output_shape=(latent_dim,), name='z')([mu, sigma])

# %% [markdown]
# ### Encoder instantiation
# Turn these layers into a model, which takes images and returns `mu`, `sigma` and `z`.

# %%
encoder = Model(i, [mu, sigma, z], name='encoder')
encoder.summary()

# %% [markdown]
# ## Creating the decoder
# ### Decoder definition
# Go back from a point of the latent space to an image, with the encoder's layers in reverse.
#
# As the post lists it, the deeper decoder cannot be trained on the digits, because its images
# are too large: four convolutions halve 28 pixels to 14, 7, 4 and 2, and four transposed ones
# double these 2 pixels to 32. Here the surplus is cropped before the last layer, for any images
# that cannot be halved evenly.

# %%
# Layers of the decoder
d_i = Input(shape=(latent_dim,), name='decoder_input')
x = Dense(conv_shape[1] * conv_shape[2] * conv_shape[3], activation='relu')(d_i)
x = BatchNormalization()(x)
x = Reshape((conv_shape[1], conv_shape[2], conv_shape[3]))(x)
if architecture == 'original':
    cx = Conv2DTranspose(filters=16, kernel_size=3, strides=2, padding='same', activation='relu')(x)
    cx = BatchNormalization()(cx)
    cx = Conv2DTranspose(filters=8, kernel_size=3, strides=2, padding='same', activation='relu')(cx)
    cx = BatchNormalization()(cx)
elif architecture == 'dcgan':
    cx = Conv2DTranspose(filters=1024, kernel_size=5, strides=2, padding='same', activation='relu')(x)
    cx = BatchNormalization()(cx)
    cx = Conv2DTranspose(filters=512, kernel_size=5, strides=2, padding='same', activation='relu')(cx)
    cx = BatchNormalization()(cx)
    cx = Conv2DTranspose(filters=256, kernel_size=5, strides=2, padding='same', activation='relu')(cx)
    cx = BatchNormalization()(cx)
    cx = Conv2DTranspose(filters=128, kernel_size=5, strides=2, padding='same', activation='relu')(cx)
    cx = BatchNormalization()(cx)
elif architecture == 'dcgan-9m':
    cx = Conv2DTranspose(filters=128, kernel_size=5, strides=2, padding='same', activation='relu')(x)
    cx = BatchNormalization()(cx)

# Crop the surplus, half of it on each side
extra_height, extra_width = cx.shape[1] - img_height, cx.shape[2] - img_width
if extra_height or extra_width:
    top, left = extra_height // 2, extra_width // 2
    cx = Cropping2D([(top, extra_height - top), (left, extra_width - left)])(cx)

o = Conv2DTranspose(
    filters=num_channels, kernel_size=3, activation='sigmoid', padding='same', name='decoder_output'
)(cx)

# %% [markdown]
# ### Decoder instantiation
# Turn these layers into a model, which takes points and returns images.

# %%
decoder = Model(d_i, o, name='decoder')
decoder.summary()

# %% [markdown]
# ## Creating the whole VAE
# Chain the two: the encoder turns an image into a point, and the decoder turns the point into
# an image.
#
# In the post, the loss reads the `mu` and `sigma` from the definition of the encoder, while the
# decoder gets the `z` of `encoder(i)`, which calls the encoder a second time. Today's Keras 2
# then runs the encoder twice in each step, and updates the averages of its batch normalization
# twice. Here the VAE has an input of its own, and the loss reads `vae_mu` and `vae_sigma`,
# which come from the same call as `z`.

# %%
vae_input = Input(shape=input_shape, name='encoder_input')
vae_mu, vae_sigma, vae_z = encoder(vae_input)
vae_outputs = decoder(vae_z)
vae = Model(vae_input, vae_outputs, name='vae')
vae.summary()

# %% [markdown]
# ## Not in the post: saving and continuing the training
# After every epoch, save the weights, the optimizer's state and all losses so far in
# `vae_weights.h5`.
#
# `--weights` continues the training that was saved in a file. If it was stopped after 63 of 100
# epochs, this runs the other 37:
#
#     python variational_autoencoder.py --weights outputs/original/vae_weights.h5 --epochs 37
#
# With `--epochs 0` nothing is trained, and the figures are drawn from `--weights`, or else from
# the file in the output folder. If another training run saves its first epoch in a folder that
# has such a file already, the old one is kept as `vae_weights.h5.bak`.

# %%
weights_file = output_dir / 'vae_weights.h5'
losses = []  # of each epoch: its number, its training loss and its validation loss
optimizer_state = []

# Load the earlier training
if 'weights' in flags or no_epochs == 0:
    path = flags.get('weights', weights_file)
    try:
        vae.load_weights(path)
        with h5py.File(path) as file:
            if 'history' in file:  # a file that Keras wrote has weights only
                losses = np.array(file['history']).tolist()
                number = len(file['optimizer'])
                optimizer_state = [np.array(file[f'optimizer/{k}']) for k in range(number)]
    except OSError as error:
        parser.error(f'cannot read {path}: {error}')
    except Exception:
        parser.error(f'{path} does not fit the {architecture} network for images of {input_shape}')
    # Shuffle the images in another order than the earlier training
    keras.utils.set_random_seed(seed + len(losses))

output_dir.mkdir(parents=True, exist_ok=True)


# %%
class SaveTraining(keras.callbacks.Callback):
    """Save the training after each epoch; a loss that is not finite ends the program with status 1."""

    def on_train_begin(self, logs=None):
        self.is_first_epoch = True
        # The optimizer has no state before this point. The saved one is used by the first call of fit,
        # and only if it is of the same kind of optimizer.
        if len(optimizer_state) == len(self.model.optimizer.get_weights()):
            self.model.optimizer.set_weights(optimizer_state)
        optimizer_state.clear()

    def on_epoch_end(self, epoch, logs=None):
        if not np.isfinite(list(logs.values())).all():
            sys.exit(f'error: the loss of epoch {epoch + 1} is not finite; try a smaller learning rate')

        row = [epoch + 1, logs['loss'], logs.get('val_loss', np.nan)]
        # Write to another name first, so that an interruption cannot damage vae_weights.h5
        unfinished = output_dir / f'unfinished_{os.getpid()}.h5'
        self.model.save_weights(unfinished)
        with h5py.File(unfinished, 'a') as file:
            file['history'] = [*losses, row]
            for k, array in enumerate(self.model.optimizer.get_weights()):
                file[f'optimizer/{k}'] = array
        if self.is_first_epoch and weights_file.exists():
            weights_file.replace(f'{weights_file}.bak')
        self.is_first_epoch = False
        unfinished.replace(weights_file)
        losses.append(row)


# %% [markdown]
# ## Defining custom VAE loss function
# Add up how far the decoded image is from the original, and how far the image's distribution in
# the latent space is from the standard normal one: Kingma & Welling (2013), equation 10, with
# its sign reversed.
#
# The post speaks of 50% of each, but its code, as here, simply adds the two. It takes one mean
# over all values of a batch, and multiplies it by width and height; here each image has a sum
# of its own, and `num_channels` makes it right for colour, too.
#
# The post also flattens `pred`, which hides from Keras that it comes from a sigmoid. Keras then
# clips values very close to 0 and 1, and the loss of those pixels has no gradient. Without
# flattening, Keras computes the same loss from the input of the sigmoid, and clips nothing.


# %%
def kl_reconstruction_loss(true, pred):
    """Return the mean loss of a batch of images (batch, height, width, channels) from 0 to 1."""
    # Reconstruction loss, summed over each image; Keras has taken the mean over the channels
    reconstruction_loss = K.sum(binary_crossentropy(true, pred), axis=[1, 2]) * num_channels
    # KL divergence of N(mu, exp(sigma)) from N(0, 1), summed over the latent dimensions
    kl_loss = 1 + vae_sigma - K.square(vae_mu) - K.exp(vae_sigma)
    kl_loss = K.sum(kl_loss, axis=-1)
    kl_loss *= -0.5
    # Total loss, averaged over the batch
    return K.mean(reconstruction_loss + kl_loss)


# %% [markdown]
# ## Compilation & training
# Compile the VAE with the Adam optimizer and the loss above.
#
# In graph mode, `'adam'` stands for `keras.optimizers.legacy.Adam()`. To change the learning
# rate, write `keras.optimizers.legacy.Adam(1e-4)` in its place. Optimizers outside `legacy` do
# not work in graph mode.

# %%
vae.compile(optimizer='adam', loss=kl_reconstruction_loss)

# %% [markdown]
# Train it to reproduce the images that it is given.
#
# The post sets `verbosity` but does not use it, and has no callbacks. Here one callback stops
# the training as soon as the loss is no longer a number. The other saves the training after
# every epoch, or ends the program if there is nothing good to save. If there were epochs
# before, the numbering continues from them.
#
# Ctrl-C, or the stop button of a notebook, ends the training early. The figures then show the
# network as it is at that moment, and the file holds the last complete epoch.

# %%
try:
    if no_epochs > 0:
        vae.fit(
            input_train,
            input_train,
            epochs=len(losses) + no_epochs,
            initial_epoch=len(losses),
            batch_size=batch_size,
            verbose=verbosity,
            validation_split=validation_split,
            callbacks=[keras.callbacks.TerminateOnNaN(), SaveTraining()],
        )
except KeyboardInterrupt:
    print(f'\nStopped; complete epochs: {len(losses)}')

# %% [markdown]
# ### Not in the post: the test loss
# Compute the loss of the test images, which the network has never seen, and the part of it that
# is KL divergence.

# %%
test_loss = vae.evaluate(input_test, input_test, batch_size=batch_size, verbose=0)
test_mu, test_sigma, _ = encoder.predict(input_test)
test_kl = -0.5 * np.mean(np.sum(1 + test_sigma - test_mu**2 - np.exp(test_sigma), axis=1))
print(f'Test loss: {test_loss:.2f} (reconstruction {test_loss - test_kl:.2f}, KL {test_kl:.2f})')

# %% [markdown]
# ## Visualizing VAE results
# Draw where the test images lie in the latent space, and what the decoder makes of that space.
#
# The post made both visualizers out of one function by François Chollet, from the Keras example
# [variational_autoencoder_deconv](https://keras.io/examples/variational_autoencoder_deconv/).
# The post shows each figure as soon as it is drawn, and waits until its window is closed. Here
# each figure is saved as well, and a script shows all of them at its end.
#
# ### Visualizing inputs mapped onto latent space
# Draw where images lie in the latent space, in the colours of their labels.
#
# In the post, labels have to be numbers. Here colours follow the sorted order of the labels, so
# they may also be words, and the colour bar names them. Labels may also be missing.


# %%
def viz_latent_space(encoder, data):
    """Draw and save the scatter of mu.

    data is (images, labels): images (n, height, width, channels) from 0 to 1, and labels (n,) or None.
    """
    input_data, target_data = data
    mu, _, _ = encoder.predict(input_data)
    plt.figure(figsize=(8, 10))
    plt.xlabel('z - dim 1')
    plt.ylabel('z - dim 2')
    if target_data is None:
        plt.scatter(mu[:, 0], mu[:, 1])
    else:
        labels, colors = np.unique(target_data, return_inverse=True)
        plt.scatter(mu[:, 0], mu[:, 1], c=colors)
        # Name at most 20 labels, since more would overlap
        step = 1 + (len(labels) - 1) // 20
        ticks = np.arange(0, len(labels), step)
        plt.colorbar(ticks=ticks).set_ticklabels(labels[ticks])
    plt.savefig(output_dir / 'latent_space.png')


# %% [markdown]
# ### Visualizing samples from the latent space
# Draw what the decoder makes of a grid of points in the latent space.
#
# The post decodes one point at a time; here it is one row at a time, which is faster. The post
# puts width before height, and sets 16 ticks for 15 labels, which is an error today; here
# height comes first, and each axis has 15 ticks of its own. The post needs two latent
# dimensions; here, there may be more. The post reshapes a grey figure for `imshow`, which is no
# longer necessary.


# %%
def viz_decoded(encoder, decoder, data):
    """Draw and save what the decoder makes of 15 by 15 points from -4 to 4.

    encoder and data are not used, as in the post. Latent dimensions after the first two are 0.
    """
    num_samples = 15
    figure = np.zeros((img_height * num_samples, img_width * num_samples, num_channels))
    grid_x = np.linspace(-4, 4, num_samples)
    grid_y = np.linspace(-4, 4, num_samples)[::-1]
    for i, yi in enumerate(grid_y):
        # Decode a row
        z_sample = np.zeros((num_samples, latent_dim))
        z_sample[:, 0] = grid_x
        z_sample[:, 1] = yi
        x_decoded = decoder.predict(z_sample)
        for j, digit in enumerate(x_decoded):
            top, left = i * img_height, j * img_width
            figure[top : top + img_height, left : left + img_width] = digit
    plt.figure(figsize=(10, 10))
    # A tick at the centre of each image
    pixel_range_x = np.arange(img_width // 2, num_samples * img_width, img_width)
    pixel_range_y = np.arange(img_height // 2, num_samples * img_height, img_height)
    plt.xticks(pixel_range_x, np.round(grid_x, 1))
    plt.yticks(pixel_range_y, np.round(grid_y, 1))
    plt.xlabel('z - dim 1')
    plt.ylabel('z - dim 2')
    plt.imshow(figure)
    plt.savefig(output_dir / 'decoded_digits.png')


# %% [markdown]
# ### Calling the visualizers
# Draw both figures; only the first one shows the test images.

# %%
data = (input_test, target_test)
viz_latent_space(encoder, data)
viz_decoded(encoder, decoder, data)

# %% [markdown]
# If some test images lie outside the square of the second figure, draw the first figure again,
# limited to that square.
#
# The post shows a zoom, too, for its deeper network, but not the code for it.

# %%
outside = np.sum(np.any(np.abs(test_mu[:, :2]) > 4, axis=1))
zoom_file = output_dir / 'latent_space_zoom.png'
if outside > 0:
    viz_latent_space(encoder, data)
    plt.axis([-4, 4, -4, 4])
    plt.title(f'{outside:,} of {len(test_mu):,} lie outside')
    plt.savefig(zoom_file)
else:
    zoom_file.unlink(missing_ok=True)  # an earlier run may have left one

# %% [markdown]
# ## Not in the post: the losses over the epochs
# Save the losses as a table and a figure, and show all figures.

# %%
if losses:
    table = np.array(losses)
    header = 'epoch,loss,val_loss'
    np.savetxt(output_dir / 'history.csv', table, fmt='%.9g', delimiter=',', header=header, comments='')
    plt.figure(figsize=(8, 5))
    plt.plot(table[:, 0], table[:, 1:], label=['training', 'validation'])
    plt.locator_params(axis='x', integer=True)
    plt.xlabel('epoch')
    plt.ylabel('loss')
    plt.legend()
    plt.savefig(output_dir / 'loss.png')
print(f'The figures are in {output_dir}')
plt.show()

# `uv run variational_autoencoder.py` reads here which packages to install
# /// script
# requires-python = ">=3.10,<3.14"
# dependencies = [
#     "tensorflow>=2.16,<2.22",
#     "tf_keras>=2.16,<2.22; python_version < '3.12'",
#     "tf_keras>=2.19,<2.22; python_version >= '3.12'",
#     "numpy>=1.26,<3",
#     "matplotlib>=3.9,<4",
# ]
# ///
