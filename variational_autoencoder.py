# %% [markdown]
# # A variational autoencoder with Keras
# A variational autoencoder (VAE) learns to draw new images that resemble those it was trained with, which are
# handwritten digits here. It consists of two networks. The encoder turns an image into a point of a plane,
# which is called the latent space. The decoder turns a point of the plane back into an image.
#
# More exactly, the encoder turns an image into a normal distribution, which is like a small cloud around a
# point. In training, a random point of this cloud is decoded, and the result has to resemble the image.
# Training also keeps the clouds of all images close together. Therefore the points between two digits mostly
# become digits as well.
#
# This is the code of Christian Versloot's blog post
# [How to create a variational autoencoder with Keras](https://github.com/christianversloot/machine-learning-articles/blob/main/how-to-create-a-variational-autoencoder-with-keras.md),
# ported to today's TensorFlow. It has the post's layers, and nearly always its order and names, so that the
# two can be read side by side. Where it would do harm to change a line back to the post's, a comment says
# why. All differences are listed at the end.
#
# With Python 3.10 to 3.13, install the packages, and run the script:
#
#     pip install "tensorflow<2.22" "tf_keras<2.22" matplotlib
#     python variational_autoencoder.py
#
# On two cores, the 100 epochs take 10 to 20 minutes. Ctrl-C ends the training early, and the figures are
# still drawn. In a notebook, paste the whole script into one cell, or the code of each cell, below its line
# `# %%`, into a cell of its own.

# %% [markdown]
# ## Model imports
# The post's code is for Keras 2, which is the package `tf_keras` today. `keras` and `tensorflow.keras` are
# Keras 3, which does not accept the post's loss function. (For a new program, Keras 3 is the better choice.
# keras.io has [a VAE](https://keras.io/examples/generative/vae/) for it.)

# %%
import argparse
import os
import sys
import warnings
from datetime import datetime
from pathlib import Path

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')  # hides TensorFlow's log; '0' shows it
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '1')  # oneDNN, fast code that is off on some CPUs

import tensorflow as tf
import tf_keras as keras
from tf_keras.layers import Conv2D, Conv2DTranspose, Input, Flatten, Dense, Lambda, Reshape
from tf_keras.layers import BatchNormalization
from tf_keras.models import Model
from tf_keras.datasets import mnist
from tf_keras.losses import binary_crossentropy
from tf_keras import backend as K
import numpy as np
import matplotlib.pyplot as plt

# Hide TensorFlow's warnings, and a harmless one of Keras
tf.get_logger().setLevel('ERROR')
warnings.filterwarnings('ignore', message='`Model.state_updates`')

# %% [markdown]
# ### Graph mode, against the error in vae.fit()
# The post's loss function does not only compare two images. It also reads `mu` and `sigma`, which are
# computed inside the network. Keras 2 accepts such a loss function only if eager execution, TensorFlow's
# default, is off. TensorFlow then works in graph mode: it builds the whole computation before it runs it.
# Without the next cell, `vae.fit()` ends in an error. In a notebook, graph mode lasts until the kernel is
# restarted.
#
# The post's own line against the error, `tf.config.experimental_run_functions_eagerly(True)`, does not help:
# today the error stays, and with TensorFlow 2.3 it goes away, but nothing is learnt. The line below is from a
# reader's comment on the post.

# %%
tf.compat.v1.disable_eager_execution()

# %% [markdown]
# ## Loading data
# MNIST has 60,000 handwritten digits to train with, and 10,000 to test. Keras downloads them, unless the
# current folder has `tests/data/mnist.npz`, the copy in this script's repository.
#
# To use images of your own, replace the next cell by one that sets `input_train`, `input_test` and
# `target_test`. Images are arrays of the shape (n, height, width) or (n, height, width, channels), with 1, 3
# or 4 channels, and with integers from 0 to 255 or floats from 0 to 1. The training images should be in
# random order. `target_test` has a number for each test image, or is `None`. The network is not told these
# numbers. They only give the points of a figure their colours.

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
# With two latent dimensions, the latent space can be shown in a figure. The last fifth of the training images
# is set aside for validation: the network is not trained with them, and their loss is printed after each
# epoch.

# %%
# Height comes first: the post's order scrambles images that are not square
img_height, img_width = input_train.shape[1], input_train.shape[2]
batch_size = 128
no_epochs = 100
validation_split = 0.2
verbosity = 1
latent_dim = 2  # or more; the figures show the first two
num_channels = 1 if input_train.ndim == 3 else input_train.shape[3]

# %% [markdown]
# The script accepts two flags. `--epochs 20`, for example, sets the number of epochs, and `--weights FILE`
# starts from the weights of an earlier run.

# %%
weights = None  # or the path of a vae_weights.h5
seed = 42  # gives the same network again, on the same CPU

# Read the flags only if this file was started as a script, not by an import or in a notebook
if '__file__' in globals() and Path(__file__).name == Path(sys.argv[0]).name:
    parser = argparse.ArgumentParser()
    parser.add_argument('--epochs', type=int, default=no_epochs, help='default: %(default)s')
    parser.add_argument('--weights', default=weights, help='the vae_weights.h5 of an earlier run')
    flags = parser.parse_args()
    no_epochs, weights = flags.epochs, flags.weights
    if verbosity == 1 and not sys.stdout.isatty():
        verbosity = 2  # a line for each epoch in a log

# %% [markdown]
# ## Data preprocessing
# The images get a dimension for their channels, and their pixels become floats from 0 to 1.

# %%
# Reshape data
input_train = input_train.reshape(input_train.shape[0], img_height, img_width, num_channels)
input_test = input_test.reshape(input_test.shape[0], img_height, img_width, num_channels)
input_shape = (img_height, img_width, num_channels)

# Parse numbers as floats, and normalize data. Only integers are divided, so that the cell can be run again
if np.issubdtype(input_train.dtype, np.integer):
    input_train = input_train.astype('float32') / 255
if np.issubdtype(input_test.dtype, np.integer):
    input_test = input_test.astype('float32') / 255

# The loss makes sense only for pixels from 0 to 1
for name, pixels in [('input_train', input_train), ('input_test', input_test)]:
    low, high = pixels.min(), pixels.max()
    if not (low >= 0 and high <= 1):
        raise ValueError(f'{name} goes from {low} to {high}; expected 0 to 1 (integers were divided by 255)')

# %% [markdown]
# ## Creating the encoder
# ### Encoder definition
# Two convolutions shrink the image, and a dense layer reduces it to 20 numbers. From these, two more layers
# compute the normal distribution of the image. `mu` is its mean, with a number for each latent dimension.
# `sigma`, despite its name, is the logarithm of its variance, again for each dimension. (The output of a
# layer may be negative. A variance may not, but its logarithm may.)

# %%
keras.utils.set_random_seed(seed)

i = Input(shape=input_shape, name='encoder_input')
cx = Conv2D(filters=8, kernel_size=3, strides=2, padding='same', activation='relu')(i)
cx = BatchNormalization()(cx)
cx = Conv2D(filters=16, kernel_size=3, strides=2, padding='same', activation='relu')(cx)
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
# The decoder gets a random point `z` of the image's distribution. If `z` were sampled directly, training
# could not find out how to change `mu` and `sigma`, since gradients do not pass through a random draw. So
# only the noise `eps` is sampled, from the standard normal distribution, and `z` is computed from `eps`, `mu`
# and `sigma` ([Kingma & Welling, 2013](https://arxiv.org/abs/1312.6114), section 2.4). The standard deviation
# is `exp(sigma / 2)`, the square root of the variance.


# %%
def sample_z(args):
    """Draw z from the normal distribution with mean mu and variance exp(sigma), each (batch, latent_dim)."""
    mu, sigma = args
    batch = K.shape(mu)[0]
    dim = K.int_shape(mu)[1]
    eps = K.random_normal(shape=(batch, dim))
    return mu + K.exp(sigma / 2) * eps


# %%
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
# A dense layer and transposed convolutions turn a point into an image of the original size.

# %%
d_i = Input(shape=(latent_dim,), name='decoder_input')
x = Dense(conv_shape[1] * conv_shape[2] * conv_shape[3], activation='relu')(d_i)
x = BatchNormalization()(x)
x = Reshape((conv_shape[1], conv_shape[2], conv_shape[3]))(x)
cx = Conv2DTranspose(filters=16, kernel_size=3, strides=2, padding='same', activation='relu')(x)
cx = BatchNormalization()(cx)
cx = Conv2DTranspose(filters=8, kernel_size=3, strides=2, padding='same', activation='relu')(cx)
cx = BatchNormalization()(cx)

# Strides halve 30 pixels to 15, and 15 to 8. Doubling then gives 16 and 32, which is 2 too many. Such a
# surplus is cropped. With MNIST (28, 14, 7, and back) there is none
if cx.shape[1] > img_height or cx.shape[2] > img_width:
    cx = cx[:, :img_height, :img_width]

o = Conv2DTranspose(
    filters=num_channels, kernel_size=3, activation='sigmoid', padding='same', name='decoder_output'
)(cx)

# %% [markdown]
# ### Decoder instantiation
# The decoder is a model that takes points and returns images, with pixels from 0 to 1.

# %%
decoder = Model(d_i, o, name='decoder')
decoder.summary()

# %% [markdown]
# ## Creating the whole VAE
# The VAE is the encoder, followed by the decoder. The loss function below must use the `mu` and `sigma` from
# the call of the encoder that also gives `z`. So the VAE has an input of its own, on which the encoder is
# called once. (In the post, `z` comes from a second call. With today's Keras 2, both calls would be computed
# in each step, and batch normalization would count each batch twice.)

# %%
vae_input = Input(shape=input_shape, name='encoder_input')
vae_mu, vae_sigma, vae_z = encoder(vae_input)
vae_outputs = decoder(vae_z)
vae = Model(vae_input, vae_outputs, name='vae')
vae.summary()

# %% [markdown]
# ## Defining custom VAE loss function
# The reconstruction loss, a binary cross-entropy, tells how much the decoded image differs from the original.
# Alone, it would let the distributions shrink to points that lie far apart, and the decoder would never learn
# what lies in between. The KL divergence tells how much the distribution of an image differs from the
# standard normal distribution, with the mean 0 and the variance 1. Alone, it would make all distributions
# equal to that one, and no image could be told from another. The loss is the sum of both, which is a
# compromise ([Kingma & Welling, 2013](https://arxiv.org/abs/1312.6114), equation 10, with its sign reversed).


# %%
def kl_reconstruction_loss(true, pred):
    """Return the mean loss of a batch of images; true and pred are (batch, height, width, channels)."""
    # Reconstruction loss: the mean over all values of the batch, times the number of values in an image. (The
    # post multiplies by the number of pixels, but in colour, each pixel has several values)
    reconstruction_loss = binary_crossentropy(K.flatten(true), K.flatten(pred))
    reconstruction_loss *= img_width * img_height * num_channels
    # KL divergence, summed over the latent dimensions
    kl_loss = 1 + vae_sigma - K.square(vae_mu) - K.exp(vae_sigma)
    kl_loss = K.sum(kl_loss, axis=-1)
    kl_loss *= -0.5
    # Total loss, averaged over the batch
    return K.mean(reconstruction_loss + kl_loss)


# %% [markdown]
# ## Compilation & training
# In graph mode, `'adam'` is `keras.optimizers.legacy.Adam`, with a learning rate of 0.001. For another rate,
# write `keras.optimizers.legacy.Adam(1e-4)`, for example, in its place. (`keras.optimizers.Adam`, without
# `legacy`, does not work in graph mode.)

# %%
# Compile VAE
vae.compile(optimizer='adam', loss=kl_reconstruction_loss)

# %% [markdown]
# If `weights` is the path of a file, the weights in it are loaded. The results go to a new folder, which is
# named after the time.

# %%
if weights:
    try:
        vae.load_weights(weights)
    except (ValueError, tf.errors.InvalidArgumentError) as error:
        raise ValueError(f'{weights} is of a network with other layers or latent dimensions') from error

output_dir = Path('outputs') / datetime.now().strftime('%Y-%m-%d-%H%M%S')
output_dir.mkdir(parents=True)

# %% [markdown]
# The VAE learns to reproduce the images that it is given. Its weights are saved after each epoch, and at the
# end. Ctrl-C, or the stop button of a notebook, ends the training early, and so does a loss that is not
# finite. If the next cell is run again, the network is trained for `no_epochs` more.


# %%
def save_weights(epoch=None, logs=None):
    """Save the weights, if all of them are finite."""
    if all(np.isfinite(array).all() for array in vae.get_weights()):
        vae.save_weights(output_dir / 'part.h5')
        # Only a complete file takes the place of the one before
        (output_dir / 'part.h5').replace(output_dir / 'vae_weights.h5')


# Train autoencoder
if no_epochs > 0:
    try:
        vae.fit(
            input_train,
            input_train,
            epochs=no_epochs,
            batch_size=batch_size,
            validation_split=validation_split,
            verbose=verbosity,
            callbacks=[
                keras.callbacks.LambdaCallback(on_epoch_end=save_weights),
                keras.callbacks.CSVLogger(output_dir / 'history.csv', append=True),
                keras.callbacks.TerminateOnNaN(),
            ],
        )
    except KeyboardInterrupt:
        print('\nStopped')
    save_weights()

# %% [markdown]
# After 100 epochs, the loss of MNIST's test images, with which the network was not trained, is 148 to 152.
# (Perfect copies would still have a reconstruction loss of 46, since the cross-entropy of grey pixels is not
# 0.)

# %%
test_loss = vae.evaluate(input_test, input_test, batch_size=batch_size, verbose=0)
print('Test loss:', np.round(test_loss, 2))

if vae.history and vae.history.history:  # if at least one epoch was completed
    plt.figure(figsize=(8, 5))
    for name, losses in vae.history.history.items():
        plt.plot(range(1, len(losses) + 1), losses, '.-', label=name)
    plt.xlabel('epoch')
    plt.legend()
    plt.savefig(output_dir / 'loss.png')

# %% [markdown]
# ## Visualizing VAE results
# Two functions draw the results. The post's author made them from one function of Keras's old example
# [variational_autoencoder_deconv.py](https://github.com/keras-team/keras/blob/2.3.1/examples/variational_autoencoder_deconv.py),
# and also credits a blog post by François Chollet.
#
# ### Visualizing inputs mapped onto latent space
# The scatter plot shows where the images lie in the latent space. Each image is a point at its `mu`, in the
# colour of its target.


# %%
def viz_latent_space(encoder, data):
    """Plot the mu of images; data is (images, targets), and targets are n numbers, or None."""
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
# The decoder turns a grid of 15 by 15 points into images. The grid goes from -4 to 4, since the KL divergence
# keeps nearly all points there. If there are more than two latent dimensions, the others are 0.


# %%
def viz_decoded(encoder, decoder, data):
    """Draw what the decoder makes of a grid of points; encoder and data are not used, as in the post."""
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
    # A tick at the centre of each image. (The post has 16 ticks for 15 labels, which is an error today)
    pixel_range_x = np.arange(num_samples) * img_width + img_width // 2
    pixel_range_y = np.arange(num_samples) * img_height + img_height // 2
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

# %%
data = (input_test, target_test)
viz_latent_space(encoder, data)
viz_decoded(encoder, decoder, data)
print(f'The results are in {output_dir}')
plt.show()

# %% [markdown]
# ## Results
# In the scatter plot, each point is a test digit. Digits of one class mostly lie together, although the
# network was not told the classes. Fours and nines overlap.
#
# In the grid, one digit turns into the next. Some are blurred, and some near the edges are no digits at all.
# Where a digit lies depends on the seed.

# %% [markdown]
# ## DCGAN-like architecture
# Below its results, the post has a deeper network, in the style of the DCGAN ([Radford et al.,
# 2015](https://arxiv.org/abs/1511.06434)). To train it, set `no_epochs = 5`, as the post does, and replace
# two groups of lines. In 'Encoder definition', the two convolutions and their batch normalizations become
#
#     cx = Conv2D(filters=128, kernel_size=5, strides=2, padding='same', activation='relu')(i)
#     cx = BatchNormalization()(cx)
#     cx = Conv2D(filters=256, kernel_size=5, strides=2, padding='same', activation='relu')(cx)
#     cx = BatchNormalization()(cx)
#     cx = Conv2D(filters=512, kernel_size=5, strides=2, padding='same', activation='relu')(cx)
#     cx = BatchNormalization()(cx)
#     cx = Conv2D(filters=1024, kernel_size=5, strides=2, padding='same', activation='relu')(cx)
#     cx = BatchNormalization()(cx)
#
# and in 'Decoder definition', the first two transposed convolutions and their batch normalizations become
#
#     cx = Conv2DTranspose(filters=1024, kernel_size=5, strides=2, padding='same', activation='relu')(x)
#     cx = BatchNormalization()(cx)
#     cx = Conv2DTranspose(filters=512, kernel_size=5, strides=2, padding='same', activation='relu')(cx)
#     cx = BatchNormalization()(cx)
#     cx = Conv2DTranspose(filters=256, kernel_size=5, strides=2, padding='same', activation='relu')(cx)
#     cx = BatchNormalization()(cx)
#     cx = Conv2DTranspose(filters=128, kernel_size=5, strides=2, padding='same', activation='relu')(cx)
#     cx = BatchNormalization()(cx)
#
# On two cores, an epoch takes about an hour. As the post lists it, this network cannot be trained: its layers
# halve 28 pixels to 14, 7, 4 and 2, and then double 2 to 32. Here, the surplus is cropped.
#
# The network has 60,755,129 parameters, but the table that the post shows has 8,728,505. This number results
# if all four convolutions take `i`, and all four transposed convolutions take `x`, so that only the last of
# each four is connected. A reader wrote of the post's decoder that it passes `x` instead of `cx`, and the
# author corrected the listing. The post's pictures of this network were probably drawn before the correction.

# %% [markdown]
# ## What differs from the post
# **Needed today:** `tf_keras`; graph mode, before the network is built; 15 ticks for 15 labels.
#
# **Corrected:** height comes before width, also in `viz_decoded`; the encoder runs once in each step, with
# `vae_input`, `vae_mu`, `vae_sigma` and `vae_z`; decoded images that are too large are cropped; all channels
# of colour images count in the reconstruction loss; `verbosity` is passed to `fit`.
#
# **Right in the post's code, but not everywhere in its text:** `sigma` is the logarithm of the variance, not
# the standard deviation; `eps` is multiplied by the standard deviation, not by `sigma^2`; the two losses are
# added, not weighted 50% each; of the 26,345 parameters, 24,641 are trainable.
#
# **New:** the copy of MNIST; the seed, the command line, and weights to start from; the check of the pixels.
# Float images are accepted, and the channels are counted. A training can be stopped early. All results are
# saved. There are a test loss and a figure of the losses. The grid also works with more than two latent
# dimensions, and the scatter plot without targets. TensorFlow's messages are hidden, and oneDNN is on. The
# figures of a script are shown together, at its end.
#
# **Gone:** two reshapings in `viz_decoded`, which are not needed.
