"""The page beside the post: its headings, its names, its cells run again, and other blocks pasted over them."""
import re
import signal

import matplotlib.pyplot as plt
import numpy as np
import pytest
from tf_keras import backend as K

from conftest import page, script

# In the post's place, other code that leaves the names that the post's block leaves, with the same effect; each behind
# the heading that it stands under, and the beginning of the page's cell
BLOCKS = {block.split(':')[0]: block.split(':', 1)[1].split('\n', 1) for block in '''
Model configuration: img_height,
img_width = img_height = 28
num_channels = 1
latent_dim = 2
batch_size, no_epochs, validation_split, verbosity = 128, 100, 0.2, 1
#
Data preprocessing: input_train =
input_shape = 28, 28, 1
input_train = np.float32(input_train / 255).reshape(-1, *input_shape)
input_test = np.float32(input_test / 255).reshape(-1, *input_shape)
#
Encoder definition: K.reset_uids
def halved(cx, filters):
    return BatchNormalization()(Conv2D(filters, 3, 2, 'same', activation='relu')(cx))
i = Input(input_shape, name='encoder_input')
cx = halved(halved(i, 8), 16)
x = BatchNormalization()(Dense(20, 'relu')(Flatten()(cx)))
mu, sigma = [Dense(latent_dim, name=name)(x) for name in ('latent_mu', 'latent_sigma')]
conv_shape = cx.shape
#
Reparameterization trick: def sample_z
def sample_z(args):
    mu, sigma = args
    return mu + K.sqrt(K.exp(sigma)) * K.random_normal(K.shape(mu))
#
Lambda: z = Lambda
z = Lambda(sample_z, name='z')([mu, sigma])
#
Encoder instantiation: encoder =
encoder = Model(inputs=i, outputs=(mu, sigma, z), name='encoder')
#
Decoder definition: d_i =
def doubled(cx, filters):
    return BatchNormalization()(Conv2DTranspose(filters, 3, 2, 'same', activation='relu')(cx))
d_i = Input([latent_dim], name='decoder_input')
x = BatchNormalization()(Dense(int(np.prod(conv_shape[1:])), 'relu')(d_i))
x = Reshape(conv_shape[1:])(x)
cx = doubled(doubled(x, 16), 8)
o = Conv2DTranspose(num_channels, 3, padding='same', activation='sigmoid', name='decoder_output')(cx)
#
Decoder instantiation: decoder =
decoder = Model(inputs=d_i, outputs=o, name='decoder')
#
Creating the whole VAE: vae_input
vae_outputs = decoder(encoder(i)[-1])
vae = Model(inputs=i, outputs=vae_outputs, name='vae')
#
Defining custom VAE loss function: def kl_reconstruction_loss
def kl_reconstruction_loss(true, pred):
    divergence = K.sum(K.exp(sigma) + mu ** 2 - sigma - 1, axis=1) / 2
    return img_width * img_height * K.mean(binary_crossentropy(K.flatten(true), K.flatten(pred))) + K.mean(divergence)
#
Compilation: vae.compile
vae.compile('adam', kl_reconstruction_loss)
#
Training: bar =
vae.fit(input_train, input_train, batch_size, no_epochs, validation_split=validation_split)
#
Visualizing inputs mapped onto latent space: def viz_latent_space
def viz_latent_space(encoder, data):
    plt.scatter(*encoder.predict(data[0])[0].T, c=data[1])
    plt.show()
#
Visualizing samples from the latent space: def viz_decoded
def viz_decoded(encoder, decoder, data):
    plt.imshow(decoder.predict(np.zeros((1, 2)))[0])
    plt.show()
#
Calling the visualizers: data =
data = input_test, target_test
viz_latent_space(encoder, data)
'''.split('#\n')}
BLOCKS = {name.strip(): (line.strip(), code.rstrip('\n')) for name, (line, code) in BLOCKS.items()}
NAMES = '''keras Conv2D Conv2DTranspose Input Flatten Dense Lambda Reshape BatchNormalization Model mnist binary_crossentropy K
np plt input_train target_train input_test target_test img_width img_height batch_size no_epochs validation_split verbosity
latent_dim num_channels input_shape i cx x mu sigma conv_shape sample_z z encoder d_i o decoder vae_outputs vae
kl_reconstruction_loss viz_latent_space viz_decoded data'''.split()
HEADINGS = [
    'Model imports', 'Loading data', 'Model configuration', 'DCGAN-like architecture', 'Data preprocessing',
    'Creating the encoder', 'Encoder definition', 'Reparameterization trick', 'Encoder instantiation',
    'Creating the decoder', 'Decoder definition', 'Decoder instantiation', 'Creating the whole VAE',
    'Defining custom VAE loss function', 'Compilation & training', 'Visualizing inputs mapped onto latent space',
    'Visualizing samples from the latent space', 'Calling the visualizers']

def pasted(code, blocks):
    """Pairs of a cell of the page and the block over it."""
    return [(cell, BLOCKS[block][1]) for block in blocks for cell in code if cell.startswith(BLOCKS[block][0])]

def test_headings_and_size(cells):
    headings = [heading for cell in cells if cell.cell_type == 'markdown'
                for heading in re.findall('^##+ (.*)$', cell.source, re.MULTILINE)]
    assert [heading for heading in headings if not heading.startswith('Not in the post: ')] == HEADINGS
    assert len(headings) - len(HEADINGS) <= 4
    lines = script.read_text().splitlines()
    assert len(lines) <= 420 and max(len(line) for line in lines if not line.startswith('# ')) <= 96
    assert [k for k, line in enumerate(lines, 1) if line.startswith('i = Input')][0] < 155

def kinds(model):
    return [(type(layer).__name__, layer.name) for layer in model.layers]

def test_each_cell_alone_and_on_to_the_end(runner, code):
    """A whole run has left the post's names; no cell that is run again harms them, nor a run from there to the end."""
    names = runner(range(len(code)))
    assert set(NAMES) <= set(names)
    layers = kinds(names['encoder'])
    vae = [k for k, cell in enumerate(code) if cell.startswith('vae_input')][0]
    for k, cell in enumerate(code):
        if k % 3 == 0:  # a new kernel now and then, since one with many networks gets slow
            names['K'].clear_session()
            runner(range(len(code)))
        before = len(names['losses'])
        if not cell.startswith('(input_train'):  # raw images, as the post's block leaves them
            runner([k])
            assert names['input_train'].min() == 0 and names['input_train'].max() == 1, cell
            assert len(names['losses']) == before + ('vae.fit(' in cell), cell
            names['encoder'].predict(names['input_test'][:2])
            before = len(names['losses'])
        runner(range(k, len(code)))
        assert names['input_train'].min() == 0 and names['input_train'].max() == 1, cell
        assert names['input_train'].dtype == 'float32' and names['conv_shape'] == (None, 7, 7, 16), cell
        assert [names[name].count_params() for name in ('encoder', 'decoder', 'vae')] == [17208, 9137, 26345], cell
        assert kinds(names['encoder']) == layers, cell
        # A new VAE begins anew; the same one goes on
        fitted = k <= [j for j, other in enumerate(code) if 'vae.fit(' in other][0]
        assert [row['epoch'] for row in names['losses']] == list(range(1 if k <= vae else before + fitted)), cell
        assert all(np.isfinite(list(row.values())).all() for row in names['losses']), cell

def test_edits_in_a_notebook(runner, code):
    """Another optimizer begins anew with the network as it is; an exception in fit leaves no handler of Ctrl-C."""
    compiling, fit = [[k for k, cell in enumerate(code) if cell.startswith(start)] for start in ('vae.compile', 'bar =')]
    K.clear_session()
    names = runner(range(len(code)))
    for optimizer in ('RMSprop()', 'Adam(1e-4)', 'SGD(1e-6)'):
        weights = names['vae'].get_weights()
        runner(compiling, ("'adam'", f'keras.optimizers.legacy.{optimizer}'))
        assert all(map(np.array_equal, names['vae'].get_weights(), weights))
        runner(fit)
        assert names['K'].get_value(names['vae'].optimizer.iterations) == 2
    assert len(names['losses']) == 4
    with pytest.raises(ZeroDivisionError):
        runner(fit, ('saving])', 'saving, keras.callbacks.LambdaCallback(on_batch_end=lambda batch, logs: 1 / 0)])'))
    runner(fit)
    assert len(names['losses']) == 5

# The VAE by itself, and with its loss; all but these; all
@pytest.mark.parametrize('blocks', [['Creating the whole VAE'], list(BLOCKS)[8:10], list(BLOCKS)[:8] + list(BLOCKS)[10:],
                                    list(BLOCKS)], ids=['VAE', 'VAE and loss', 'others', 'all'])
def test_blocks_like_the_posts_fit_in(digits, code, tmp_path, blocks):
    changes = pasted(code, blocks)
    assert len(changes) == len(blocks)
    changes = [(cell, text.replace('128, 100', '128, 2')) for cell, text in changes]
    changes += [] if 'Model configuration' in blocks else [('no_epochs = 100', 'no_epochs = 2')]
    names = page('--data', digits, '--output-dir', tmp_path, changes=changes)
    assert set(NAMES) <= set(names) and names['vae'].count_params() == 26345
    losses = names['vae'].history.history['val_loss']
    assert len(losses) == 2 and 100 < losses[1] < losses[0] < 800

@pytest.mark.parametrize('split, steps', [(0.5, 2 * 5), (0, 2 * 10)])
def test_changed_settings_count_everywhere(digits, tmp_path, split, steps):
    names = page('--data', digits, '--output-dir', tmp_path, changes=[
        ('no_epochs = 100', 'no_epochs = 2'), ('batch_size = 128', 'batch_size = 64'), ('latent_dim = 2\n', 'latent_dim = 5\n'),
        ('validation_split = 0.2', f'validation_split = {split}'), ('[8, 16], [16, 8]', '[4, 8, 12], [12, 8, 4]')])
    assert len(names['vae'].history.epoch) == 2
    assert names['K'].get_value(names['vae'].optimizer.iterations) == steps
    assert [layer.filters for layer in names['encoder'].layers if hasattr(layer, 'filters')] == [4, 8, 12]
    assert names['decoder'].input_shape == (None, 5)
    assert {'latent_space.png', 'decoded_digits.png', 'loss.png'} <= {path.name for path in tmp_path.iterdir()}

def test_dcgan_brings_the_posts_epochs(digits):
    for arguments, epochs in [([], 100), (['--architecture', 'dcgan'], 5), (['--architecture', 'dcgan', '--epochs', 7], 7)]:
        assert page('--data', digits, *arguments, until='Data preprocessing')['run_epochs'] == epochs
