# %% [markdown]
# # A variational autoencoder with Keras
# This is the code of Christian Versloot's blog post 'How to create a variational autoencoder with
# Keras', ported to today's TensorFlow. Read it beside the post, which explains each step:
#
# <https://github.com/christianversloot/machine-learning-articles/blob/main/how-to-create-a-variational-autoencoder-with-keras.md>
#
# Headings, names and layers follow the post. Where the code differs, the text above it says how and
# why, in a paragraph that begins with 'Differs from the post'.
#
# With Python 3.10 to 3.13, install the packages and run the script:
#
#     pip install "tensorflow<2.22" "tf_keras<2.22" matplotlib
#     python variational_autoencoder.py
#
# On two cores, the post's 100 epochs take 10 to 20 minutes, and end at a test loss of 148 to 150. The
# figures and the trained weights are saved in a new folder inside `outputs`. Ctrl-C ends the training
# early, and the figures are still drawn. For a first look, 20 epochs are enough:
#
#     python variational_autoencoder.py --epochs 20
#
# In a notebook, paste each part that begins with `# %%` into a cell of its own. The whole script also
# runs in one cell, which then begins a new training each time that it is run.

# %% [markdown]
# ## Model imports
# NumPy, Matplotlib, and the layers and functions of Keras are imported.
#
# **Differs from the post:** The imports are from `tf_keras`, which is Keras 2. Today, `keras` and
# `tensorflow.keras` are Keras 3, which does not accept the post's loss function. `Cropping2D`,
# TensorFlow and some modules of Python's own are imported, too. Most of TensorFlow's log messages and
# some warnings are hidden (exceptions are not), and oneDNN, TensorFlow's fast code for CPUs, is
# switched on.

# %%
import argparse
import os
import sys
import warnings
from datetime import datetime
from pathlib import Path

# TensorFlow reads these as it is imported
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '1')

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

# Hide warnings, too
tf.get_logger().setLevel('ERROR')
warnings.filterwarnings('ignore', message='`Model.state_updates`')
warnings.filterwarnings('ignore', message='.*non-interactive')

# %% [markdown]
# ## If you get an error with vae.fit()
# With today's TensorFlow, `vae.fit()` always fails unless this cell has run. The cell switches eager
# execution off. TensorFlow then no longer computes each line immediately, but builds the whole
# computation first, which is called graph mode. The post gives `compile` a loss function that uses
# tensors from inside the network, and Keras 2 allows this in graph mode only. In a notebook, graph
# mode lasts until the kernel is restarted.
#
# **Differs from the post:** The post's own line, `tf.config.experimental_run_functions_eagerly(True)`,
# does not help. The line below is from a reader's comment at MachineCurve, where the post first
# appeared. The post has this section after the visualizers. Here it comes early, since the line must
# run before the network is built.

# %%
tf.compat.v1.disable_eager_execution()

# %% [markdown]
# ## Loading data
# Keras downloads MNIST, which has 60,000 handwritten digits to train with, and 10,000 to test.
#
# To use images of your own, replace the next cell by code that sets `input_train`, `input_test` and
# `target_test`. The images are arrays of the shape (n, height, width) or (n, height, width, channels),
# with 1 or 3 channels. Their pixels are integers from 0 to 255, or floats from 0 to 1. `target_test` is
# `None`, or has one number for each test image, which sets the colour of its point. The training images
# should be in random order, since the last fifth of them is used for validation.
#
# **Differs from the post:** The repository of this script has a copy of MNIST. If the script is started
# there, the digits are read from the copy.

# %%
mnist_copy = Path('tests/data/mnist.npz')
if mnist_copy.exists():
    with np.load(mnist_copy) as file:
        input_train, target_train = file['x_train'], file['y_train']
        input_test, target_test = file['x_test'], file['y_test']
else:
    (input_train, target_train), (input_test, target_test) = mnist.load_data()

# %% [markdown]
# ## Model configuration
# These are the settings of the data, the model and the training.
#
# **Differs from the post:** The height of an image is read before its width. The post swaps the two,
# which scrambles images that are not square. The number of channels is read from the images, too.

# %%
# Data and model
img_height, img_width = input_train.shape[1], input_train.shape[2]
batch_size = 128
no_epochs = 100
validation_split = 0.2
verbosity = 1
latent_dim = 2  # or more; the figures show the first two
num_channels = 1 if input_train.ndim == 3 else input_train.shape[3]

# %% [markdown]
# **Differs from the post:** `architecture`, `weights` and `seed` are new. If the script is started
# with the flags `--architecture`, `--epochs` or `--weights`, these replace `architecture`, `no_epochs`
# or `weights`. In the cells of a notebook, there are no flags, and the values set there are used. When
# the output is written to a file, the losses of an epoch are one line, and there is no progress bar.

# %%
architecture = 'original'  # or 'dcgan', the deeper network at the end of the post
weights = None  # or the path of a vae_weights.h5 to start from
seed = 42  # the same seed gives the same network again, on the same CPU

parser = argparse.ArgumentParser()
parser.add_argument(
    '--architecture', choices=['original', 'dcgan'], default=architecture, help='default: %(default)s'
)
parser.add_argument(
    '--epochs', type=int, default=no_epochs, help='default: %(default)s; 0 only draws figures'
)
parser.add_argument('--weights', default=weights, metavar='FILE', help='a vae_weights.h5 to start from')

# Read the flags if this file was started as a script. In a notebook cell, there is no __file__, or
# sys.argv[0] is another program.
this_file = globals().get('__file__')
if this_file and Path(sys.argv[0]).name == Path(this_file).name:
    flags = parser.parse_args()
    architecture, no_epochs, weights = flags.architecture, flags.epochs, flags.weights
    if verbosity == 1 and not sys.stdout.isatty():
        verbosity = 2

# %% [markdown]
# ## Data preprocessing
# The images get a dimension for their channels, and the pixels are scaled to between 0 and 1.
#
# **Differs from the post:** Only integers are divided by 255. This cell can therefore be run again,
# since the pixels are floats after it. An error is raised if pixels are out of range, if all are
# nearly black (they may have been divided twice), if there are not 1 or 3 channels, or if
# `target_test` is neither `None` nor one number for each test image.

# %%
# A dimension for the channels
input_train = input_train.reshape(input_train.shape[0], img_height, img_width, num_channels)
input_test = input_test.reshape(input_test.shape[0], img_height, img_width, num_channels)
input_shape = (img_height, img_width, num_channels)

# Refuse what does not fit
white = 255 if np.issubdtype(input_train.dtype, np.integer) else 1
for name, pixels in [('input_train', input_train), ('input_test', input_test)]:
    low, high = pixels.min(), pixels.max()
    if not (low >= 0 and 0.1 * white < high <= white):
        found = f'{name} has pixels from {low} to {high}'
        raise ValueError(f'{found}; expected the whole range from 0 to {white}')
if num_channels not in (1, 3):
    raise ValueError(f'the images have the shape {input_shape}; expected 1 or 3 channels, at the end')
if target_test is not None:
    target_test = np.asarray(target_test, float).reshape(len(input_test))

# Pixels as floats from 0 to 1
input_train = input_train.astype('float32') / white
input_test = input_test.astype('float32') / white

# %% [markdown]
# ## Creating the encoder
# ### Encoder definition
# Convolutions shrink an image, and a dense layer reduces it to 20 values. From these, two more layers
# compute a normal distribution in the latent space. `mu` is its mean, and `sigma` is the logarithm of
# its variance, as in the post's code. (The post's text calls `sigma` the standard deviation.)
#
# **Differs from the post:** The seed is set, so that a run can be repeated. The convolutions after
# `elif` are those of the deeper network, with which the post ends.

# %%
keras.utils.set_random_seed(seed)

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
x = Flatten()(cx)
x = Dense(20, activation='relu')(x)
x = BatchNormalization()(x)
mu = Dense(latent_dim, name='latent_mu')(x)
sigma = Dense(latent_dim, name='latent_sigma')(x)

# The shape of the last convolution, which the decoder needs
conv_shape = K.int_shape(cx)

# %% [markdown]
# ### Reparameterization trick
# A point `z` is sampled from the image's distribution, in a way that lets gradients reach `mu` and
# `sigma` ([Kingma & Welling, 2013](https://arxiv.org/abs/1312.6114), section 2.4). The random number
# `eps` is multiplied by the standard deviation, which is `exp(sigma / 2)`, as in the post's code. (A
# formula in the post's text has `sigma^2` instead.)


# %%
def sample_z(args):
    """Sample z from the normal distribution with the mean mu and the variance exp(sigma).

    args is [mu, sigma], each (batch, latent_dim).
    """
    mu, sigma = args
    batch = K.shape(mu)[0]
    dim = K.int_shape(mu)[1]
    eps = K.random_normal(shape=(batch, dim))
    return mu + K.exp(sigma / 2) * eps


# %%
# Wrap sample_z in a layer
z = Lambda(sample_z, output_shape=(latent_dim,), name='z')([mu, sigma])

# %% [markdown]
# ### Encoder instantiation
# The encoder is a model that takes images and returns `mu`, `sigma` and `z`.

# %%
encoder = Model(i, [mu, sigma, z], name='encoder')
encoder.summary()

# %% [markdown]
# ## Creating the decoder
# ### Decoder definition
# Transposed convolutions turn a point in the latent space back into an image.
#
# **Differs from the post:** If the result would be larger than the images, its edges are cropped
# before the last layer. This happens if a side of the images cannot be halved evenly. The encoder then
# rounds the half up, and the decoder doubles the rounded number. With the digits, only the deeper
# network after `elif` needs the crop, since it halves 28 to 14, 7, 4 and 2, and doubles 2 to 32.

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

# Crop the surplus, half of it on either side
extra_height, extra_width = cx.shape[1] - img_height, cx.shape[2] - img_width
if extra_height or extra_width:
    top, left = extra_height // 2, extra_width // 2
    cx = Cropping2D([(top, extra_height - top), (left, extra_width - left)])(cx)

o = Conv2DTranspose(
    filters=num_channels, kernel_size=3, activation='sigmoid', padding='same', name='decoder_output'
)(cx)

# %% [markdown]
# ### Decoder instantiation
# The decoder is a model that takes points and returns images.

# %%
decoder = Model(d_i, o, name='decoder')
decoder.summary()

# %% [markdown]
# ## Creating the whole VAE
# The VAE chains the two models. The encoder turns an image into a point, and the decoder turns that
# point into an image.
#
# **Differs from the post:** The VAE has an input of its own, and the encoder is called on it once. The
# loss function below uses `vae_mu` and `vae_sigma`, which come from this call. In the post, the VAE
# begins at the encoder's input `i`. There, the loss uses the `mu` and `sigma` of the encoder's
# definition, while `z` comes from the call `encoder(i)`. With today's Keras 2, both the definition and
# the call would run in every step, and every batch would count twice in batch normalization.

# %%
vae_input = Input(shape=input_shape, name='encoder_input')
vae_mu, vae_sigma, vae_z = encoder(vae_input)
vae_outputs = decoder(vae_z)
vae = Model(vae_input, vae_outputs, name='vae')
vae.summary()

# %% [markdown]
# ## Defining custom VAE loss function
# The loss has two parts. The reconstruction loss is the binary cross-entropy between an image and the
# decoded image. The KL divergence tells how far the image's distribution in the latent space is from
# the standard normal distribution. Their sum is equation 10 of [Kingma & Welling
# (2013)](https://arxiv.org/abs/1312.6114), with its sign reversed. It is a plain sum, as in the post's
# code. (The post speaks of 50% of each part.)
#
# **Differs from the post:** The function uses `vae_mu` and `vae_sigma`, as explained above. The
# reconstruction loss is also multiplied by `num_channels`, since a pixel in colour has three values.


# %%
def kl_reconstruction_loss(true, pred):
    """Return the mean loss of a batch; true and pred are (batch, height, width, channels)."""
    # Reconstruction loss: the mean over all values of the batch, times the number of values in an image
    reconstruction_loss = binary_crossentropy(K.flatten(true), K.flatten(pred))
    reconstruction_loss *= img_width * img_height * num_channels
    # KL divergence of N(mu, exp(sigma)) from N(0, 1), summed over the latent dimensions
    kl_loss = 1 + vae_sigma - K.square(vae_mu) - K.exp(vae_sigma)
    kl_loss = K.sum(kl_loss, axis=-1)
    kl_loss *= -0.5
    # Total loss, averaged over the batch
    return K.mean(reconstruction_loss + kl_loss)


# %% [markdown]
# ## Compilation & training
# The VAE is compiled with the Adam optimizer and the loss function.
#
# The learning rate is 0.001. To change it, write `keras.optimizers.legacy.Adam(1e-4)`, for example, in
# the place of `'adam'`. (`keras.optimizers.Adam` does not work in graph mode.)

# %%
vae.compile(optimizer='adam', loss=kl_reconstruction_loss)

# %% [markdown]
# **Differs from the post:** This cell is new. If `weights` is set, the training starts from these
# weights. All results go to a new folder, which is named after the time. After an epoch, the weights
# are saved in `vae_weights.h5` if the loss of the training images is the lowest so far.

# %%
if weights:
    try:
        vae.load_weights(weights)
    except (ValueError, tf.errors.InvalidArgumentError):
        network = f'the {architecture} network for images of the shape {input_shape}'
        raise ValueError(f'{weights} does not fit {network} with latent_dim = {latent_dim}') from None

output_dir = Path('outputs') / datetime.now().strftime('%Y-%m-%d-%H%M%S-%f')
output_dir.mkdir(parents=True)
weights_file = output_dir / 'vae_weights.h5'
checkpoint = keras.callbacks.ModelCheckpoint(
    weights_file, monitor='loss', save_best_only=True, save_weights_only=True
)

# %% [markdown]
# The VAE learns to reproduce the images that it is given. If you run this cell again in a notebook,
# the training goes on for `no_epochs` more. With `no_epochs = 0`, nothing is trained.
#
# **Differs from the post:** `verbosity`, which the post only sets, is passed to `fit`. The losses are
# written to `history.csv`, which counts the epochs from 0. Ctrl-C, or the stop button of a notebook,
# ends the training, and so does a loss that is not finite. At the end, the network gets back the
# weights that were saved, so that the figures show the network in the file.

# %%
if no_epochs > 0:
    try:
        vae.fit(
            input_train,
            input_train,
            epochs=no_epochs,
            batch_size=batch_size,
            verbose=verbosity,
            validation_split=validation_split,
            callbacks=[
                checkpoint,
                keras.callbacks.CSVLogger(output_dir / 'history.csv', append=True),
                keras.callbacks.TerminateOnNaN(),
            ],
        )
    except KeyboardInterrupt:
        print('\nStopped')

    if vae.stop_training and not weights_file.exists():
        raise ValueError('the loss is not finite in the first epoch; try a smaller learning rate')
    try:
        vae.load_weights(weights_file)
    except (OSError, KeyError, ValueError):
        # The training was stopped before the file was complete
        vae.save_weights(weights_file)

# %% [markdown]
# **Differs from the post:** This cell is new. It draws the losses of the training. It also computes the
# loss of the test images, which the network has never seen, and the KL divergence in that loss.

# %%
if vae.history and vae.history.history:  # if at least one epoch was trained
    plt.figure(figsize=(8, 5))
    for name, losses in vae.history.history.items():
        plt.plot(range(1, len(losses) + 1), losses, '.-', label=name)
    plt.xlabel('epoch')
    plt.locator_params(axis='x', integer=True)
    plt.legend()
    plt.savefig(output_dir / 'loss.png')

test_loss = vae.evaluate(input_test, input_test, batch_size=batch_size, verbose=0)
test_mu, test_sigma, _ = encoder.predict(input_test)
test_kl = -0.5 * np.mean(np.sum(1 + test_sigma - test_mu**2 - np.exp(test_sigma), axis=1))
print(f'Test loss: {test_loss:.2f} (KL divergence: {test_kl:.2f})')

# %% [markdown]
# ## Visualizing VAE results
# Two functions draw the results. The post made them from one function in Keras's old example
# [variational_autoencoder_deconv.py](https://github.com/keras-team/keras/blob/2.3.1/examples/variational_autoencoder_deconv.py),
# and also credits a blog post by François Chollet.
#
# **Differs from the post:** The figures are also saved. A script shows them at its end, all together.
#
# ### Visualizing inputs mapped onto latent space
# The scatter plot shows where images lie in the latent space, in the colours of their targets.
#
# **Differs from the post:** If there are no targets, there is no colour bar.


# %%
def viz_latent_space(encoder, data):
    """Draw and save the scatter of mu.

    data is (images, targets): images (n, height, width, channels) from 0 to 1, targets (n,) or None.
    """
    input_data, target_data = data
    mu, _, _ = encoder.predict(input_data)
    plt.figure(figsize=(8, 10))
    plt.scatter(mu[:, 0], mu[:, 1], c=target_data)
    plt.xlabel('z - dim 1')
    plt.ylabel('z - dim 2')
    if target_data is not None:
        plt.colorbar()
    plt.savefig(output_dir / 'latent_space.png')


# %% [markdown]
# ### Visualizing samples from the latent space
# The grid shows what the decoder makes of points in the latent space.
#
# **Differs from the post:** There are 15 ticks for the 15 labels of an axis. The post has 16, which is an
# error in today's Matplotlib. The height comes before the width. If there are more than two latent
# dimensions, the points are 0 in all others. The post's two reshapings are not needed any more.


# %%
def viz_decoded(encoder, decoder, data):
    """Draw and save what the decoder makes of 15 by 15 points from -4 to 4.

    encoder and data are not used, as in the post.
    """
    num_samples = 15
    figure = np.zeros((img_height * num_samples, img_width * num_samples, num_channels))
    grid_x = np.linspace(-4, 4, num_samples)
    grid_y = np.linspace(-4, 4, num_samples)[::-1]
    for i, yi in enumerate(grid_y):
        for j, xi in enumerate(grid_x):
            z_sample = np.zeros((1, latent_dim))
            z_sample[0, :2] = [xi, yi]
            x_decoded = decoder.predict(z_sample)
            digit = x_decoded[0]
            figure[i * img_height : (i + 1) * img_height, j * img_width : (j + 1) * img_width] = digit
    plt.figure(figsize=(10, 10))
    # A tick at the centre of each image
    pixel_range_x = np.arange(img_width // 2, num_samples * img_width, img_width)
    pixel_range_y = np.arange(img_height // 2, num_samples * img_height, img_height)
    sample_range_x = np.round(grid_x, 1)
    sample_range_y = np.round(grid_y, 1)
    plt.xticks(pixel_range_x, sample_range_x)
    plt.yticks(pixel_range_y, sample_range_y)
    plt.xlabel('z - dim 1')
    plt.ylabel('z - dim 2')
    plt.imshow(figure)
    plt.savefig(output_dir / 'decoded_digits.png')


# %% [markdown]
# ### Calling the visualizers
# The scatter plot and the grid are drawn. Only the scatter plot uses the test images.
#
# **Differs from the post:** The name of the folder with the results is printed.

# %%
data = (input_test, target_test)
viz_latent_space(encoder, data)
viz_decoded(encoder, decoder, data)
print(f'The results are in {output_dir}')
plt.show()

# %% [markdown]
# ## Results
# In the scatter plot, each point is a digit that the network was not trained on. Digits of one class
# mostly lie together, and fours and nines overlap. The whole cloud lies around the centre, which is
# what the KL divergence is for.
#
# In the grid, neighbours look alike, and one digit turns into another. Some are blurred, and some near
# the edges are no digits at all. Which digit lies where depends on the seed.

# %% [markdown]
# ## DCGAN-like architecture
# The post ends with a deeper network. To train it in a notebook, set `architecture = 'dcgan'` and
# `no_epochs = 5`, and run all cells again. As a script, start
#
#     python variational_autoencoder.py --architecture dcgan --epochs 5
#
# Without a GPU, an epoch takes about an hour.
#
# **Differs from the post:** The decoded images are cropped, as said under 'Decoder definition'. The
# network as the post lists it cannot be trained, since it makes images of 32 by 32 pixels out of images
# of 28 by 28.
#
# The post's summary of this network does not fit its listing. The layers in the listing have
# 60,755,129 parameters, and the summary shows 8,728,505. The latter is exactly the number of a network
# with this mistake: each of the encoder's four convolutions takes `i`, and each of the decoder's four
# takes `x`, instead of `cx`. Only the last of each four is then part of the network. A reader reported
# this mistake in the decoder, and the author then corrected the listing.

# %%
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
