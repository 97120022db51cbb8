"""
A convolutional variational autoencoder (VAE) with Keras, trained on MNIST.

A port of the blog post 'How to create a variational autoencoder with Keras' to
today's TensorFlow. The cells have the post's headings, in the post's order; a
comment that begins with 'Post:' says where the code departs from it, and why.

    python variational_autoencoder.py --help
"""

# %% Model imports
import argparse
import builtins
import os
import sys
import tempfile
import warnings
from pathlib import Path

# Notes that a reader can do nothing about are silenced; what the environment asks for wins
quiet = os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3') == '3'
# oneDNN keeps the convolutions that it has compiled for a step: 3% of the time
os.environ.setdefault('TF_MKL_OPTIMIZE_PRIMITIVE_MEMUSE', 'false')
if not sys.warnoptions:
    warnings.filterwarnings('ignore', message='.Model.state_updates')

import h5py  # TensorFlow brings it: the format of the weights
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
# Post: `import keras`, which is Keras 3 today; tf_keras is the post's Keras 2
from tf_keras import backend as K
from tf_keras.callbacks import CSVLogger
from tf_keras.datasets import mnist
from tf_keras.layers import BatchNormalization, Conv2D, Conv2DTranspose, Cropping2D
from tf_keras.layers import Dense, Flatten, Input, Lambda, Reshape
from tf_keras.models import Model
from tf_keras.utils import set_random_seed

if quiet:
    tf.get_logger().setLevel('ERROR')
# The loss reads mu and sigma, which are not its arguments: only a graph allows that
tf.compat.v1.disable_eager_execution()


# %% Loading data
class UserError(ValueError):
    """What the reader can put right; the text says how."""


def load_data(path=None):
    """Load the arrays of an .npz file, or MNIST without one.

    Returns ((input_train, target_train), (input_test, target_test)), as Keras's
    mnist.load_data does; labels that the file does not have are None.
    Raises UserError where the file, or MNIST, cannot be read.
    """
    own_copy = project / 'tests' / 'data' / 'mnist.npz'
    if path is None and not own_copy.exists():
        try:
            return mnist.load_data()
        except Exception as error:  # a bare one is what Keras raises
            raise UserError(f'MNIST cannot be downloaded ({error}); put mnist.npz at {own_copy}, '
                            'or name such a file with --data') from error
    path = path or own_copy
    try:
        with np.load(path) as arrays:
            missing = [name for name in ('x_train', 'x_test') if name not in arrays]
            if not missing:
                return tuple((np.asarray(arrays[f'x_{part}']),
                              np.asarray(arrays[f'y_{part}']) if f'y_{part}' in arrays else None)
                             for part in ('train', 'test'))
    except FileNotFoundError as error:
        raise UserError(f'there is no data file {path}; --data takes an .npz file') from error
    except Exception as error:  # broken files fail in many ways
        raise UserError(f'{path} cannot be read as an .npz file of plain arrays ({error}); '
                        'write it with numpy.savez') from error
    raise UserError(f'{path} has no {" and no ".join(missing)}; it needs x_train and x_test, '
                    'and y_test if there are labels')


# %% Model configuration
# Post: img_width, img_height and num_channels stand here; they now come with the images
batch_size = 128
no_epochs = 100
validation_split = 0.2
verbosity = 1
latent_dim = 2
seed = 42
architecture = 'original'
architectures = {
    'original': dict(encoder_filters=[8, 16], decoder_filters=[16, 8], kernel_size=3),
    # The post's DCGAN-like listing, and the network that its summary and figures come from
    'dcgan': dict(encoder_filters=[128, 256, 512, 1024], decoder_filters=[1024, 512, 256, 128],
                  kernel_size=5, no_epochs=5),
    'dcgan-as-published': dict(encoder_filters=[1024], decoder_filters=[128], kernel_size=5, no_epochs=5),
}
latent_limit = 4  # the decoded grid, and the zoomed scatter, reach from -4 to 4
# A notebook is no file: its folder stands in
project = Path(__file__).resolve().parent if '__file__' in globals() else Path.cwd()


# %% Data preprocessing
def scale(images, name):
    """Return images as (n, height, width, channels), float32 in [0, 1].

    Takes (n, height, width) or (n, height, width, channels) with 1 or 3 channels:
    integers from 0 to 255, or floating point values in [0, 1]. Raises UserError for others.
    """
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.dtype.kind not in 'buif' or images.ndim != 4 or images.shape[3] not in (1, 3) or not images.size:
        raise UserError(f'{name} holds {images.dtype} of the shape {images.shape}; it must hold numbers of the '
                        'shape (n, height, width), (n, height, width, 1) or (n, height, width, 3), and not none')
    low, high, white = images.min(), images.max(), 255 if images.dtype.kind in 'ui' else 1
    # Post: not checked; pixels that were not scaled train to `loss: 0.0000e+00`
    if not (0 <= low and high <= white):
        raise UserError(f'{name} holds {images.dtype} values from {low} to {high}; ' + (
            'integers must lie in 0 to 255' if white == 255 else
            'floating point values must lie in [0, 1], none of them NaN: divide pixels of 0 to 255 by 255'))
    return np.divide(images, white, dtype='float32')


def preprocess(data):
    """Scale the images of load_data; return them with their labels in the same order.

    Raises UserError where they cannot be used, or fit neither each other nor the labels.
    """
    (input_train, target_train), (input_test, target_test) = data
    input_train, input_test = scale(input_train, 'x_train'), scale(input_test, 'x_test')
    if input_train.shape[1:] != input_test.shape[1:]:
        raise UserError(f'the images of x_train have the shape {input_train.shape[1:]}, those of x_test '
                        f'{input_test.shape[1:]}; they must have the same')
    if target_test is not None:
        if target_test.size != len(input_test):
            raise UserError(f'y_test has the shape {target_test.shape}; it must hold one label for each '
                            f'of the {len(input_test)} images of x_test')
        target_test = target_test.reshape(-1)
    if not 0 < int(len(input_train) * (1 - validation_split)) < len(input_train):
        raise UserError(f'x_train has too few images ({len(input_train)}): some must be left on both sides '
                        f'of a validation split of {validation_split}')
    return (input_train, target_train), (input_test, target_test)


# %% Creating the encoder
def sample_z(args):
    """Draw z = mu + exp(sigma / 2) * eps, with eps from N(0, 1) for each element.

    args is [mu, sigma]; they and the result are (batch, latent_dim).
    The reparameterization trick: Kingma & Welling (2013), arXiv:1312.6114, section 2.4.
    """
    mu, sigma = args
    # Post: sigma is called the standard deviation; it is the logarithm of the variance
    eps = K.random_normal(shape=K.shape(mu))
    return mu + K.exp(sigma / 2) * eps


def create_encoder(input_shape, filters, kernel_size):
    """Build the encoder, images (batch, height, width, channels) to [mu, sigma, z].

    The images are in [0, 1], each output is (batch, latent_dim). Returns the encoder
    and conv_shape, the shape of its last convolution.
    """
    i = Input(shape=input_shape, name='encoder_input')
    cx = i
    for no_filters in filters:
        cx = Conv2D(no_filters, kernel_size, strides=2, padding='same', activation='relu')(cx)
        cx = BatchNormalization()(cx)
    conv_shape = K.int_shape(cx)
    x = Flatten()(cx)
    x = Dense(20, activation='relu')(x)
    x = BatchNormalization()(x)
    mu = Dense(latent_dim, name='latent_mu')(x)
    sigma = Dense(latent_dim, name='latent_sigma')(x)
    z = Lambda(sample_z, output_shape=(latent_dim,), name='z')([mu, sigma])
    return Model(i, [mu, sigma, z], name='encoder'), conv_shape


# %% Creating the decoder
def create_decoder(conv_shape, input_shape, filters, kernel_size):
    """Build the decoder, z (batch, latent_dim) to images (batch, height, width, channels).

    The images are in [0, 1]. Raises UserError where the filters are too few for their size.
    """
    img_height, img_width, num_channels = input_shape
    d_i = Input(shape=(latent_dim,), name='decoder_input')
    x = Dense(conv_shape[1] * conv_shape[2] * conv_shape[3], activation='relu')(d_i)
    x = BatchNormalization()(x)
    cx = Reshape(conv_shape[1:])(x)
    for no_filters in filters:
        cx = Conv2DTranspose(no_filters, kernel_size, strides=2, padding='same', activation='relu')(cx)
        cx = BatchNormalization()(cx)
    # Post: no crop; four halvings take 28 to 2, and four doublings take 2 to 32
    height, width = K.int_shape(cx)[1:3]
    surplus = height - img_height, width - img_width
    if min(surplus) < 0:
        raise UserError(f'{len(filters)} decoder filters end at {height} by {width} pixels, '
                        f'short of {img_height} by {img_width}; give as many as encoder filters')
    if any(surplus):
        cx = Cropping2D([(border // 2, border - border // 2) for border in surplus])(cx)
    o = Conv2DTranspose(num_channels, 3, padding='same', activation='sigmoid', name='decoder_output')(cx)
    return Model(d_i, o, name='decoder')


# %% Creating the whole VAE
def create_vae(encoder, decoder):
    """Build the VAE, images to images (batch, height, width, channels) in [0, 1].

    Returns it with its mu and sigma, for the loss.
    """
    # Post: the encoder's own i; with an input of its own the encoder runs once in a step, not twice
    i = Input(shape=encoder.input_shape[1:], name='encoder_input')
    mu, sigma, z = encoder(i)
    return Model(i, decoder(z), name='vae'), mu, sigma


# %% Defining custom VAE loss function
def create_loss(mu, sigma):
    """Define the loss: minus the bound in Kingma & Welling (2013), arXiv:1312.6114, equation 10.

    mu and sigma are the VAE's, (batch, latent_dim). Returns kl_reconstruction_loss(true, pred),
    a scalar for images (batch, height, width, channels) in [0, 1], and its two parts, (batch,)
    each, as metrics.
    """
    def reconstruction_loss(true, pred):
        # Post: the mean over the flattened batch times width times height. The sum is the same, counts
        # colours too, and leaves pred as it is: Keras then finds the sigmoid's logits and uses those.
        return K.sum(K.binary_crossentropy(true, pred), axis=[1, 2, 3])

    def kl_loss(true, pred):
        return -0.5 * K.sum(1 + sigma - K.square(mu) - K.exp(sigma), axis=-1)

    def kl_reconstruction_loss(true, pred):
        # Post: 'total loss = 50% rec + 50% KL divergence loss'; it is the sum of the two
        return K.mean(reconstruction_loss(true, pred) + kl_loss(true, pred))

    return kl_reconstruction_loss, [reconstruction_loss, kl_loss]


# %% Compilation & training
class SaveEpoch(CSVLogger):
    """Save the weights, and a row of history.csv, after every whole epoch.

    Neither is touched before the first one's end: an earlier run's stand until then.
    """
    def __init__(self, vae, output_dir, network, epochs):
        super().__init__(output_dir / 'history.csv', append=epochs > 0)
        self.model, self.network, self.epochs = vae, network, epochs
        self.weights, self.csv_file, self.row = output_dir / 'vae_weights.h5', None, None
        self.may_replace = self.append or not self.weights.exists()

    def on_train_begin(self, logs=None):
        pass

    def on_epoch_end(self, epoch, logs=None):
        self.row, self.may_replace = (epoch, logs), True
        self.save()

    def save(self):
        # Not *.weights.h5: in graph mode Keras writes such a file without a single weight
        part = self.weights.with_name('vae_weights_part.h5')
        try:
            # HDF5 ends the whole program on a full disk: let a plain file of that size find out
            part.write_bytes(bytes(4 * self.model.count_params() + 2**18))
            self.model.save_weights(part)
            with h5py.File(part, 'a') as file:
                file.attrs['network'] = self.network
            if self.row:
                if not self.csv_file:
                    super().on_train_begin()
                super().on_epoch_end(*self.row)
                self.epochs, self.row = self.row[0] + 1, None
            os.replace(part, self.weights)
        except (OSError, tf.errors.OpError) as error:
            part.unlink(missing_ok=True)
            print(f'\nwarning: the weights cannot be saved now ({error}); {self.weights} stays as it was, '
                  'and training goes on', file=sys.stderr)

    def on_train_end(self, logs=None):
        if self.csv_file:
            super().on_train_end(logs)


def load_weights(vae, path, network):
    """Set the weights of the VAE from a file; UserError where they are not those of such a network."""
    found = 'no known network'
    try:
        if path.name.endswith('.weights.h5'):
            raise OSError('this ending is another format to Keras; rename it to plain .h5')
        with h5py.File(path) as file:
            found = file.attrs.get('network', 'a network without a name')
        vae.load_weights(path)
    except FileNotFoundError as error:
        raise UserError(f'there is no weights file {path}; --weights takes a vae_weights.h5') from error
    except Exception as error:  # broken files fail in many ways
        raise UserError(f'{path} holds weights of {found}, this run needs those of {network} ({error}); '
                        'name other weights, or their own --architecture and --data') from error


def train(vae, input_train, epochs, batch_size, save_epoch):
    """Fit the compiled VAE. Ctrl-C ends that after the current step, with what has been learnt."""
    # Post: verbosity is not passed on. A bar that is redrawn is for eyes, not for log files.
    watched = sys.stdout.isatty() or hasattr(builtins, '__IPYTHON__')
    try:
        vae.fit(input_train, input_train, initial_epoch=save_epoch.epochs, epochs=save_epoch.epochs + epochs,
                batch_size=batch_size, validation_split=validation_split, callbacks=[save_epoch],
                verbose=2 if verbosity == 1 and not watched else verbosity)
    except KeyboardInterrupt:
        if save_epoch.may_replace:  # less than an epoch does not replace an earlier run's weights
            save_epoch.save()
        print(f'\nInterrupted with {save_epoch.epochs} whole epochs in; on to the test loss and the figures. '
              'A second Ctrl-C ends it at once.')


# %% Visualizing inputs mapped onto latent space
def viz_latent_space(encoder, data):
    """Draw where the encoder puts images: mu, coloured by label.

    data is images (n, height, width, channels) in [0, 1], and labels (n,) or None. Returns the
    figure in a list, and a zoomed one after it where images lie outside the square of viz_decoded.
    """
    input_data, target_data = data
    mu, _, _ = encoder.predict(input_data)
    outside = np.any(np.abs(mu) > latent_limit, axis=1).sum()
    figures = []
    for zoomed in [False, True][:1 + bool(outside)]:
        figures.append(plt.figure(figsize=(8, 10)))
        if target_data is None:
            plt.scatter(mu[:, 0], mu[:, 1])
        else:
            labels, places = np.unique(target_data, return_inverse=True)
            colours = labels if labels.dtype.kind in 'uif' else np.arange(len(labels))
            plt.scatter(mu[:, 0], mu[:, 1], c=colours[places])
            step = 1 + len(labels) // 21  # more than 20 would overlap
            if step > 1 and labels.dtype.kind == 'f':  # measurements rather than classes
                plt.colorbar()
            else:
                plt.colorbar(ticks=colours[::step]).set_ticklabels(labels[::step])
        plt.xlabel('z - dim 1')
        plt.ylabel('z - dim 2')
        if zoomed:
            plt.xlim(-latent_limit, latent_limit)
            plt.ylim(-latent_limit, latent_limit)
            plt.title(f'{outside:,} of {len(mu):,} lie outside')
    return figures


# %% Visualizing samples from the latent space
def viz_decoded(encoder, decoder, data):
    """Draw what the decoder makes of 15 by 15 points in [-4, 4] squared, +4 in the first row.

    encoder and data are the post's arguments, and not used. Returns the figure.
    """
    num_samples = 15
    img_height, img_width, num_channels = decoder.output_shape[1:]
    grid_x = np.linspace(-latent_limit, latent_limit, num_samples)
    grid_y = np.linspace(-latent_limit, latent_limit, num_samples)[::-1]
    # Post: 225 calls of predict
    digits = decoder.predict(np.array([[xi, yi] for yi in grid_y for xi in grid_x]))
    # Post: rows are placed by the width, and so are their ticks
    figure = digits.reshape(num_samples, num_samples, img_height, img_width, num_channels)
    figure = figure.swapaxes(1, 2).reshape(num_samples * img_height, num_samples * img_width, num_channels)
    canvas = plt.figure(figsize=(10, 10))
    # Post: the ticks end one step late, 16 for 15 labels
    plt.xticks(np.arange(num_samples) * img_width + img_width // 2, np.round(grid_x, 1))
    plt.yticks(np.arange(num_samples) * img_height + img_height // 2, np.round(grid_y, 1))
    plt.xlabel('z - dim 1')
    plt.ylabel('z - dim 2')
    plt.imshow(figure[..., 0] if num_channels == 1 else figure)
    return canvas


# %% Time to run it!
class Parser(argparse.ArgumentParser):
    """argparse, with its errors as ours."""
    def error(self, message):
        raise UserError(message)


def parse(arguments):
    """Make settings of command-line arguments; the defaults stand in 'Model configuration'."""
    epochs = {name: layers.get('no_epochs', no_epochs) for name, layers in architectures.items()}
    parser = Parser(
        description='Train a variational autoencoder on MNIST, or on your own images, and draw its latent space.',
        epilog="There are two DCGAN-like networks, because the post's listing (dcgan) is not the network that its "
               'summary and figures come from (dcgan-as-published). When those were made, every layer of the '
               "listing was applied to the model's input, so that only the last one counted.")
    flag = parser.add_argument
    flag('--architecture', metavar='NAME', choices=architectures, default=architecture,
         help=f'{", ".join(architectures)} (default: %(default)s)')
    flag('--epochs', metavar='N', type=int, help='0 trains nothing and only draws (default: ' + ', '.join(
        f'{number} for {name}' for name, number in epochs.items()) + ')')
    flag('--batch-size', metavar='N', type=int, default=batch_size, help='(default: %(default)s)')
    flag('--data', metavar='FILE.npz', type=Path,
         help='images x_train and x_test, and y_test if there are labels (default: MNIST)')
    flag('--weights', metavar='FILE', type=Path, help='start from these weights (default: new ones)')
    flag('--seed', metavar='N', type=int, default=seed, help='(default: %(default)s)')
    flag('--output-dir', metavar='DIR', type=Path, help='(default: outputs/<architecture> next to the script)')
    settings = parser.parse_args(arguments)
    if settings.epochs is None:
        settings.epochs = epochs[settings.architecture]
    if settings.output_dir is None:
        settings.output_dir = project / 'outputs' / settings.architecture
    for name, value, low, high in [('number of epochs', settings.epochs, 0, 10**6),
                                   ('batch size', settings.batch_size, 1, 10**6),
                                   ('seed', settings.seed, 0, 2**32 - 1)]:
        if not (isinstance(value, int) and low <= value <= high):
            raise UserError(f'the {name} is {value}; it must be a whole number from {low} to {high}')
    if latent_dim != 2:
        raise UserError(f'the latent dimension is {latent_dim}; it must be 2, for the figures have two')
    return settings


def check_output_dir(output_dir):
    """Make the folder; UserError where it cannot be written."""
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output_dir).close()
    except OSError as error:
        raise UserError(f'{output_dir} cannot take the results ({error}); '
                        'name another folder with --output-dir') from error


def show(figures, output_dir):
    """Save the figures by their names, then show them where there is a screen or a notebook."""
    try:
        (output_dir / 'latent_space_zoom.png').unlink(missing_ok=True)  # it may be an earlier run's
        for name, figure in figures.items():
            figure.savefig(output_dir / f'{name}.png')
    except OSError as error:
        raise UserError(f'the figures cannot be saved ({error}); --epochs 0 --weights {output_dir}/vae_weights.h5 '
                        'draws them again') from error
    print(f'Figures: {", ".join(figures)} in {output_dir}')
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='.*non-interactive')  # without a screen
        plt.show()
    plt.close('all')


def main(arguments=()):
    """Train and draw as command-line arguments say; return encoder, decoder and vae.

    Raises UserError for what the reader can put right, before anything is trained or written.
    """
    settings = parse(arguments)
    (input_train, target_train), (input_test, target_test) = preprocess(load_data(settings.data))
    input_shape = input_train.shape[1:]
    network = f'{settings.architecture} for images of {" by ".join(map(str, input_shape))}'

    K.clear_session()  # a second run in a notebook is then the same as the first
    set_random_seed(settings.seed)
    layers = architectures[settings.architecture]
    encoder, conv_shape = create_encoder(input_shape, layers['encoder_filters'], layers['kernel_size'])
    decoder = create_decoder(conv_shape, input_shape, layers['decoder_filters'], layers['kernel_size'])
    vae, mu, sigma = create_vae(encoder, decoder)
    kl_reconstruction_loss, parts = create_loss(mu, sigma)
    vae.compile(optimizer='adam', loss=kl_reconstruction_loss, metrics=parts)
    if settings.weights:
        load_weights(vae, settings.weights, network)
    check_output_dir(settings.output_dir)
    for model in encoder, decoder, vae:
        model.summary()

    if settings.epochs:
        history = settings.output_dir / 'history.csv'
        rows = history.read_text().splitlines()[1:] if settings.weights and history.exists() else []
        train(vae, input_train, settings.epochs, settings.batch_size,
              SaveEpoch(vae, settings.output_dir, network, epochs=len(rows)))
    loss, reconstruction_loss, kl_loss = vae.evaluate(
        input_test, input_test, batch_size=settings.batch_size, verbose=0)
    print(f'Test loss: {loss:.2f} (reconstruction {reconstruction_loss:.2f}, KL {kl_loss:.2f})')

    data = (input_test, target_test)
    show(dict(zip(['latent_space', 'latent_space_zoom'], viz_latent_space(encoder, data)),
              decoded_digits=viz_decoded(encoder, decoder, data)), settings.output_dir)
    return encoder, decoder, vae


if __name__ == '__main__':
    # In a notebook sys.argv is the kernel's; only a script that was started by its name has its own
    started = '__file__' in globals() and Path(sys.argv[0]).resolve() == Path(__file__).resolve()
    try:
        encoder, decoder, vae = main(sys.argv[1:] if started else [])
    except (UserError, KeyboardInterrupt) as error:
        if hasattr(builtins, '__IPYTHON__'):
            raise
        if isinstance(error, KeyboardInterrupt):
            sys.exit(130)
        print('error:', *str(error).split(), file=sys.stderr)
        sys.exit(2)
