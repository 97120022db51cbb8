# %% [markdown]
# # A variational autoencoder with Keras
# A port of the blog post [How to create a variational autoencoder with Keras](
# https://github.com/christianversloot/machine-learning-articles/blob/main/how-to-create-a-variational-autoencoder-with-keras.md)
# to today's TensorFlow, with the post's headings, names and order. A text says where a cell departs from it, and why.
# %% [markdown]
# ## Not in the post: the command line
# A flag overrules the setting of its name below. A notebook has no flags: to use images of your own there, replace the
# last line by `given = vars(parser.parse_args(['--data', 'pictures.npz']))`.
# %%
import argparse
import os
import signal
import sys
from contextlib import closing, suppress
from pathlib import Path
parser = argparse.ArgumentParser(prog='variational_autoencoder.py', usage='%(prog)s [flags]',
                                 argument_default=argparse.SUPPRESS)
flag = parser.add_argument
flag('--architecture', metavar='NAME', choices=['original', 'dcgan', 'dcgan-as-published'],
     help='original, dcgan or dcgan-as-published (default: original)')
flag('--epochs', metavar='N', type=int,
     help='in addition to those of --weights; 0 only draws (default: 100, 5 for both dcgan)')
flag('--batch-size', metavar='N', type=int, help='(default: 128)')
flag('--data', metavar='FILE.npz', type=os.path.expanduser,
     help='x_train, x_test and, if there are labels, y_test (default: MNIST)')
flag('--weights', metavar='FILE', type=os.path.expanduser,
     help='go on from this vae_weights.h5 (default: a new training)')
flag('--seed', metavar='N', type=int, help='(default: 42)')
flag('--output-dir', metavar='DIR', type=os.path.expanduser,
     help='(default: outputs/<architecture> next to the script)')
script = Path(__file__).resolve() if '__file__' in globals() else Path('notebook')
program = __name__ == '__main__' and script == Path(sys.argv[0]).resolve()
sys.stdout = sys.stdout or open(os.devnull, 'w')  # Keras prints, even where there is none.
if program and not hasattr(sys, 'ps1'):
    with suppress(AttributeError, ValueError):  # on Windows, and in threads
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends the run without a word.
    if 'inline' in os.environ.get('MPLBACKEND', ''):  # of the notebook that runs this command
        del os.environ['MPLBACKEND']
given = vars(parser.parse_args(sys.argv[1:] if program else []))
# %% [markdown]
# ## Model imports
# The post's `keras` is Keras 3 today, and lacks some of what the post calls; `tf_keras` is Keras 2. The post's loss reads
# `mu` and `sigma` from outside, which a loss given to `compile` may do in graph mode only. So eager execution is off, as
# a reader suggests below the post; the post's own fix, `experimental_run_functions_eagerly(True)`, does not help. Hidden
# are TensorFlow's log, and the warnings of `Model.state_updates` and of a missing window.
# %%
import io
import json
import warnings
# TensorFlow leaves oneDNN off on many processors, where a step takes twice as long without it.
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '1')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
warnings.filterwarnings('ignore', message='.Model.state_updates|.*non-interactive')
import h5py
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
import tf_keras as keras
from tf_keras import backend as K
from tf_keras.datasets import mnist
from tf_keras.layers import Conv2D, Conv2DTranspose, Input, Flatten, Dense, Lambda, Reshape
from tf_keras.layers import BatchNormalization, Cropping2D
from tf_keras.losses import binary_crossentropy
from tf_keras.models import Model
from tf_keras.src.saving.legacy import hdf5_format
tf.get_logger().setLevel('ERROR')
tf.compat.v1.disable_eager_execution()
# %% [markdown]
# ## Not in the post: images of one's own, and an earlier training
# Images are of one size, grey or in colour: integers from 0 to 255, or other numbers from 0 to 1.
# %%
def load_data():
    """Return (x_train, y_train), (x_test, y_test); the labels are None where there are none."""
    path = given.get('data', script.parent / 'tests' / 'data' / 'mnist.npz')
    try:
        if 'data' not in given and not path.exists():
            return mnist.load_data()
        with np.lib.npyio.NpzFile(open(path, 'rb'), own_fid=True) as file:
            x_train, x_test, y_test = file['x_train'], file['x_test'], file.get('y_test')
            y_train = None if 'data' in given else file['y_train']
        labelled = y_test is None or y_test.size == len(x_test)
        for array in (x_train, x_test):
            numbers = array.size > 0 and array.dtype.kind in 'buif' and array.ndim in (3, 4)
            alike = array.shape[1:3] == x_test.shape[1:3] and array[:1].size == x_test[:1].size
            if not (labelled and numbers and alike and array.shape[3:] in [(), (1,), (3,)]):
                raise ValueError(f'x_train: {x_train.dtype} {x_train.shape}, x_test: '
                                 f'{x_test.dtype} {x_test.shape}, y_test: {np.shape(y_test)}')
    except Exception as error:
        parser.error(f'{path} cannot be used ({error}); --data takes an .npz of numpy.savez: '
                     'x_train, x_test (n, height, width[, 1 or 3 channels]) as of numpy.stack, '
                     'and for labels y_test (n,), labels.astype(str) or one_hot.argmax(axis=1)')
    return (x_train, y_train), (x_test, y_test)
# %%
def load_training(path):
    """Return the weights file of an earlier training, read into memory, or {} without one."""
    try:
        return h5py.File(h5py.h5f.open_file_image(Path(path).read_bytes())) if path else {}
    except Exception as error:
        parser.error(f'{path} cannot be read ({error}); train first, or name other --weights')
# %% [markdown]
# ## Loading data
# %%
(input_train, target_train), (input_test, target_test) = load_data()
# %% [markdown]
# ## Model configuration
# The post swaps width and height, which scrambles images that are not square, and always has one channel.
# %%
img_height, img_width = input_train.shape[1], input_train.shape[2]
batch_size = 128
no_epochs = 100
validation_split = 0.2
verbosity = 1
latent_dim = 2
num_channels = input_train[0].size // (img_height * img_width)
# %% [markdown]
# ### DCGAN-like architecture
# The post's listing is `dcgan`, its summary `dcgan-as-published`. A row: filters on both sides, kernel size, epochs.
# %%
seed = 42
architecture = 'original'
architectures = {
    'original': ([8, 16], [16, 8], 3, no_epochs),
    'dcgan': ([128, 256, 512, 1024], [1024, 512, 256, 128], 5, 5),
    'dcgan-as-published': ([1024], [128], 5, 5),
}
network = given.get('architecture', architecture)
encoder_filters, decoder_filters, kernel_size, network_epochs = architectures[network]
run_epochs = given.get('epochs', network_epochs)
output_dir = Path(given.get('output_dir', script.parent / 'outputs' / network))
weights = given.get('weights', None if run_epochs else output_dir / 'vae_weights.h5')
# %% [markdown]
# ## Data preprocessing
# The post divides all images by 255, and again when it is run again. Here, only integers are divided.
# %%
input_train = input_train.reshape(input_train.shape[0], img_height, img_width, num_channels)
input_test = input_test.reshape(input_test.shape[0], img_height, img_width, num_channels)
input_shape = (img_height, img_width, num_channels)
input_train = input_train.astype('float32') / (255 if input_train.dtype.kind in 'iu' else 1)
input_test = input_test.astype('float32') / (255 if input_test.dtype.kind in 'iu' else 1)
# %% [markdown]
# ## Creating the encoder
# ### Encoder definition
# The post has no seed. The steps of an earlier training are added to the one here, or its noise would come again. The
# post writes out all layers. Its text calls `sigma` the standard deviation; here and in its code it is log(variance).
# %%
earlier = load_training(weights)
steps = int(earlier['optimizer/0'][()]) if 'optimizer' in earlier else 0
keras.utils.set_random_seed((given.get('seed', seed) + steps) % 2**32)
# %%
K.reset_uids()  # In a second run, the layers have the names of the first.
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
# The post does not crop. Its DCGAN-like decoder makes 32 pixels of 2; here, what surrounds the 28 of a digit is cut off.
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
# The post calls the encoder on `i`, the encoder's own input, and its loss reads `mu` and `sigma` from before that call:
# the encoder stands in the graph twice. Here the VAE has an input of its own, and the encoder runs once in each step.
# %%
vae_input = Input(shape=input_shape, name='encoder_input')
vae_outputs = decoder(encoder(vae_input)[2])
vae = Model(vae_input, vae_outputs, name='vae')
vae.summary()
# %% [markdown]
# ## Defining custom VAE loss function
# The negative evidence lower bound: Kingma & Welling (2013), [arXiv:1312.6114](https://arxiv.org/abs/1312.6114),
# equation 10, with `mu` and `sigma` of the encoder's last call. The post speaks of 50% of each term, but adds the two.
# It multiplies a mean over all values by width and height, which is too little for several channels. It flattens `pred`,
# which Keras then clips: where the sigmoid saturates there is no gradient. Behind `pred` as it is, Keras finds the logits.
# %%
def reconstruction_loss(true, pred):
    """Return the cross-entropy (batch,) of (batch, height, width, channels) in [0, 1]."""
    return K.sum(binary_crossentropy(true, pred), axis=[1, 2]) * num_channels
# %%
def kl_loss(true, pred):
    """Return the divergence (batch,) of N(mu, exp(sigma)) from the standard normal."""
    mu, sigma, _ = encoder.get_output_at(-1)
    return -0.5 * K.sum(1 + sigma - K.square(mu) - K.exp(sigma), axis=-1)
# %%
def kl_reconstruction_loss(true, pred):
    """Return the loss, a scalar, of (batch, height, width, channels) in [0, 1]."""
    return K.mean(reconstruction_loss(true, pred) + kl_loss(true, pred))
# %% [markdown]
# ## Not in the post: a training that is checked and saved, and goes on
# After each epoch `vae_weights.h5` holds the weights, the optimizer's state and the losses of all epochs, which is what
# `--weights` goes on from. Ctrl-C, or a notebook's stop button, ends the training after the batch at hand.
# %%
run_batch_size = given.get('batch_size', batch_size)
for name, number, least in [('images', len(input_train), 3), ('epochs', run_epochs, 0),
                            ('batch size', run_batch_size, 2), ('latent_dim', latent_dim, 2)]:
    if number < least:
        parser.error(f'{name}: {number} found; it must be at least {least}')
for name, images, white in [('x_train', input_train, 0.125), ('x_test', input_test, 0)]:
    low, high = images.min(), images.max()
    if not (low >= 0 and white <= high <= 1):
        parser.error(f'{name}: pixels from {low:g} to {high:g} (integers / 255); it must be in '
                     '0 to 1, not black or NaN: as floats, (x - x.min()) / (x.max() - x.min())')
weights_file = (output_dir / 'vae_weights.h5').resolve()
part = weights_file.with_name(f'vae_weights_{os.getpid()}.h5')  # one for each process
if vae.history is None:  # A new network begins a training, or goes on with the earlier one.
    try:
        losses = json.loads(earlier['losses'][()]) if 'losses' in earlier else []
        if earlier:
            print(f'This run begins with the training in {weights}.')
            hdf5_format.load_weights_from_hdf5_group(earlier.get('model_weights', earlier), vae)
            np.asarray_chkfinite(np.concatenate([array.ravel() for array in vae.get_weights()]))
    except Exception as error:
        parser.error(f'{weights} does not fit {network} for {input_shape} images; name other '
                     f'--weights, --architecture or --data ({str(error).splitlines()[0]})')
    if run_epochs and weights_file.exists() and not weights_file.samefile(weights or '.'):
        print(f'note: the training in {weights_file} will be replaced', file=sys.stderr)
try:
    plt.close(plt.figure())
    output_dir.mkdir(parents=True, exist_ok=True)
    part.touch()
    part.unlink()
except Exception as error:
    parser.error(f'{output_dir}: {error}; name another --output-dir, or set MPLBACKEND=agg')
# %%
class SaveTraining(keras.callbacks.Callback):
    """Save the training after each epoch, whole or not. Until it is closed, Ctrl-C ends it."""
    interrupted = False
    def on_train_begin(self, logs=None):
        # Another program's handler stays, and threads may have none.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            with suppress(ValueError):
                signal.signal(signal.SIGINT, self.interrupt)
        # An optimizer of another kind begins anew.
        state, optimizer = earlier.get('optimizer', []), self.model.optimizer
        if len(state) == len(optimizer.get_weights()) and not K.get_value(optimizer.iterations):
            optimizer.set_weights([state[str(k)][()] for k in range(len(state))])
    def interrupt(self, number, frame):
        self.interrupted = True
    def close(self):
        if signal.getsignal(signal.SIGINT) == self.interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self.interrupted:
            print(f'\nInterrupted with {len(losses)} whole epochs in.')
    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = self.model.stop_training or self.interrupted
    on_test_batch_end = on_train_batch_end

    def on_epoch_end(self, epoch, logs=None):
        row = {'epoch': epoch, **{name: float(loss) for name, loss in logs.items()}}
        optimizer = self.model.optimizer.get_weights()
        numbers = [*row.values(), *self.model.get_weights(), *optimizer]
        if not all(np.isfinite(number).all() for number in numbers):
            sys.exit(f'error: epoch {epoch + 1} is not finite: {row}; try larger batches')
        if not self.interrupted:
            losses.append(row)
        elif not losses and weights_file.exists():
            print(f'\nLess than an epoch is not saved over the training in {weights_file}.')
            return
        memory = io.BytesIO()
        with h5py.File(memory, 'w') as file:
            hdf5_format.save_weights_to_hdf5_group(file, self.model)
            file['losses'] = json.dumps(losses)
            for k, array in enumerate(optimizer):
                file[f'optimizer/{k}'] = array
        try:
            part.write_bytes(memory.getbuffer())
            os.replace(part, weights_file)
        except OSError as error:
            part.unlink(missing_ok=True)
            sys.exit(f'error: epoch {epoch + 1} cannot be saved: {error}')
        header = [','.join(whole) for whole in losses[:1]]
        lines = [','.join(map(str, whole.values())) for whole in losses]
        try:
            (output_dir / 'history.csv').write_text('\n'.join([*header, *lines, '']))
        except OSError as error:
            print(f'warning: {error}', file=sys.stderr)
# %% [markdown]
# ## Compilation & training
# The post does not use `verbosity`, and has no test loss. Only `keras.optimizers.legacy` works in graph mode.
# %%
vae.compile(optimizer='adam', loss=kl_reconstruction_loss,
            metrics=[reconstruction_loss, kl_loss])
# %%
bar = os.isatty(1) or hasattr(sys, 'ps1')  # A log has a line for each epoch instead.
progress = 2 if verbosity == 1 and not bar else verbosity
with closing(SaveTraining()) as saving:
    history = vae.fit(input_train, input_train, batch_size=run_batch_size, verbose=progress,
                      validation_split=validation_split, initial_epoch=len(losses),
                      epochs=len(losses) + run_epochs,
                      callbacks=[keras.callbacks.TerminateOnNaN(), saving])
test = np.ravel(vae.evaluate(input_test, input_test, batch_size=run_batch_size, verbose=0))
print('Test', *[f'{name}: {loss:.2f}' for name, loss in zip(vae.metrics_names, test)])
# %% [markdown]
# ## Visualizing inputs mapped onto latent space
# The post credits both visualizers to François Chollet, https://keras.io/examples/variational_autoencoder_deconv.
# %%
def viz_latent_space(encoder, data):
    """Draw mu, coloured by label; data is images as in the fit, and labels (n,) or None."""
    input_data, target_data = data
    mu, _, _ = encoder.predict(input_data)
    plt.figure(figsize=(8, 10), layout='constrained')
    plt.xlabel('z - dim 1')
    plt.ylabel('z - dim 2')
    if target_data is None:
        plt.scatter(mu[:, 0], mu[:, 1])
    else:
        labels, ranks = np.unique(target_data, return_inverse=True)
        plt.scatter(mu[:, 0], mu[:, 1], c=ranks)
        if labels.dtype.kind == 'S':
            labels = np.char.decode(labels, 'utf-8', 'replace')
        ticks = np.arange(0, len(labels), 1 + len(labels) // 21)  # More than 20 would overlap.
        plt.colorbar(ticks=ticks).set_ticklabels(labels[ticks], parse_math=False)
    plt.savefig(output_dir / 'latent_space.png')
# %% [markdown]
# ## Visualizing samples from the latent space
# The post calls `predict` for each digit; a call for each row is faster. Its 16 tick positions for 15 labels are an error
# today, and the same on both axes. Of pictures larger than the figure can show, it gets every k-th pixel.
# %%
def viz_decoded(encoder, decoder, data):
    """Draw what the decoder makes of 15 by 15 points of [-4, 4] squared, the top row at +4."""
    num_samples = 15
    k = max(1, max(img_height, img_width) // 66)
    height, width = len(range(0, img_height, k)), len(range(0, img_width, k))
    figure = np.zeros((height * num_samples, width * num_samples, num_channels))
    grid_x = np.linspace(-4, 4, num_samples)
    grid_y = np.linspace(-4, 4, num_samples)[::-1]
    for i, yi in enumerate(grid_y):
        z_sample = np.array([[xi, yi] + [0] * (latent_dim - 2) for xi in grid_x])
        x_decoded = decoder.predict(z_sample)
        for j, digit in enumerate(x_decoded):
            figure[i * height:(i + 1) * height, j * width:(j + 1) * width] = digit[::k, ::k]
    plt.figure(figsize=(10, 10), layout='constrained')
    plt.xticks(np.arange(num_samples) * width + width // 2, np.round(grid_x, 1))
    plt.yticks(np.arange(num_samples) * height + height // 2, np.round(grid_y, 1))
    plt.xlabel('z - dim 1')
    plt.ylabel('z - dim 2')
    plt.imshow(figure, origin='upper')
    plt.savefig(output_dir / 'decoded_digits.png')
# %% [markdown]
# ## Calling the visualizers
# The post's DCGAN-like section has a third figure: the scatter again, where most digits are.
# %%
data = (input_test, target_test)
viz_latent_space(encoder, data)
viz_decoded(encoder, decoder, data)
places, _, _ = encoder.predict(input_test)
outside = np.sum(np.any(np.abs(places[:, :2]) > 4, axis=1))
with suppress(OSError):  # It may be an earlier run's.
    (output_dir / 'latent_space_zoom.png').unlink()
if outside and plt.get_fignums():  # none if the post's own functions have shown them
    viz_latent_space(encoder, data)
    plt.axis([-4, 4, -4, 4])
    plt.title(f'{outside:,} of {len(places):,} lie outside')
    plt.savefig(output_dir / 'latent_space_zoom.png')
# %% [markdown]
# ## Not in the post: the losses over the epochs
# %%
if losses:
    plt.figure(figsize=(8, 10), layout='constrained')
    for place, name in enumerate(vae.metrics_names, start=1):
        plt.subplot(len(vae.metrics_names), 1, place, ylabel=name)
        for key, label in [(name, 'training'), (f'val_{name}', 'validation')]:
            epochs, values = zip(*[(row['epoch'] + 1, row.get(key)) for row in losses])
            plt.plot(epochs, values, '.-', label=label)
        plt.legend()
        plt.locator_params(axis='x', integer=True)
    plt.xlabel('epoch')
    plt.savefig(output_dir / 'loss.png')
print(f'The figures are in {output_dir}')
plt.show()
# /// script
# requires-python = ">=3.10,<3.14"
# dependencies = ["tensorflow>=2.16,<2.22", "tf_keras>=2.16,<2.22", "numpy>=1.26,<3",
#                 "tf_keras>=2.19; python_version >= '3.12'", "matplotlib>=3.9,<4"]
# ///
