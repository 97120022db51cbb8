"""The page beside the post: its cells, its names, and the post's own blocks pasted over its cells."""
import re

import jupytext
import numpy as np
import pytest

from conftest import page, script, train

# The post's blocks that work today; each behind its name, and a line that begins or is in the page's cell
LISTING = '''
#: Model configuration: img_height, img_width =
img_width, img_height = input_train.shape[1], input_train.shape[2]
batch_size = 128
no_epochs = 100
validation_split = 0.2
verbosity = 1
latent_dim = 2
num_channels = 1
#: Data preprocessing: input_train = input_train.reshape
input_train = input_train.reshape(input_train.shape[0], img_height, img_width, num_channels)
input_test = input_test.reshape(input_test.shape[0], img_height, img_width, num_channels)
input_shape = (img_height, img_width, num_channels)
input_train = input_train.astype('float32')
input_test = input_test.astype('float32')
input_train = input_train / 255
input_test = input_test / 255
#: Encoder definition: cx = i
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
#: conv_shape: conv_shape =
conv_shape = K.int_shape(cx)
#: sample_z: def sample_z
def sample_z(args):
    mu, sigma = args
    batch = K.shape(mu)[0]
    dim = K.int_shape(mu)[1]
    eps = K.random_normal(shape=(batch, dim))
    return mu + K.exp(sigma / 2) * eps
#: Lambda: z = Lambda
z = Lambda(sample_z, output_shape=(latent_dim, ), name='z')([mu, sigma])
#: Encoder instantiation: encoder = Model
encoder = Model(i, [mu, sigma, z], name='encoder')
encoder.summary()
#: Decoder definition: d_i = Input
d_i = Input(shape=(latent_dim, ), name='decoder_input')
x = Dense(conv_shape[1] * conv_shape[2] * conv_shape[3], activation='relu')(d_i)
x = BatchNormalization()(x)
x = Reshape((conv_shape[1], conv_shape[2], conv_shape[3]))(x)
cx = Conv2DTranspose(filters=16, kernel_size=3, strides=2, padding='same', activation='relu')(x)
cx = BatchNormalization()(cx)
cx = Conv2DTranspose(filters=8, kernel_size=3, strides=2, padding='same', activation='relu')(cx)
cx = BatchNormalization()(cx)
o = Conv2DTranspose(filters=num_channels, kernel_size=3, activation='sigmoid', padding='same', name='decoder_output')(cx)
#: Decoder instantiation: decoder = Model
decoder = Model(d_i, o, name='decoder')
decoder.summary()
#: Creating the whole VAE: mu, sigma, z
vae_outputs = decoder(encoder(i)[2])
vae = Model(i, vae_outputs, name='vae')
vae.summary()
#: Defining custom VAE loss function: def kl_reconstruction_loss
def kl_reconstruction_loss(true, pred):
    reconstruction_loss = binary_crossentropy(K.flatten(true), K.flatten(pred)) * img_width * img_height
    kl_loss = 1 + sigma - K.square(mu) - K.exp(sigma)
    kl_loss = K.sum(kl_loss, axis=-1)
    kl_loss *= -0.5
    return K.mean(reconstruction_loss + kl_loss)
#: Compilation & training: vae.compile
vae.compile(optimizer='adam', loss=kl_reconstruction_loss)
vae.fit(input_train, input_train, epochs = no_epochs, batch_size = batch_size, validation_split = validation_split)
#: Visualizing inputs mapped onto latent space: def viz_latent_space
def viz_latent_space(encoder, data):
    input_data, target_data = data
    mu, _, _ = encoder.predict(input_data)
    plt.figure(figsize=(8, 10))
    plt.scatter(mu[:, 0], mu[:, 1], c=target_data)
    plt.xlabel('z - dim 1')
    plt.ylabel('z - dim 2')
    plt.colorbar()
    plt.show()
#: Calling the visualizers: data = (input_test
data = (input_test, target_test)
viz_latent_space(encoder, data)
viz_decoded(encoder, decoder, data)
'''
BLOCKS = {}
for block in LISTING.split('#: ')[1:]:
    head, code = block.split('\n', 1)
    name, line = head.split(': ')
    BLOCKS[name] = line, code.rstrip('\n')
NAMES = '''keras Conv2D Conv2DTranspose Input Flatten Dense Lambda Reshape BatchNormalization Model mnist binary_crossentropy K
np plt input_train target_train input_test target_test img_width img_height batch_size no_epochs validation_split verbosity
latent_dim num_channels input_shape i cx x mu sigma conv_shape sample_z z encoder d_i o decoder vae_outputs vae
kl_reconstruction_loss viz_latent_space viz_decoded data'''.split()
HEADINGS = [
    'Model imports', 'Loading data', 'Model configuration', 'Data preprocessing', 'Creating the encoder',
    'Encoder definition', 'Reparameterization trick', 'Encoder instantiation', 'Creating the decoder',
    'Decoder definition', 'Decoder instantiation', 'Creating the whole VAE', 'Defining custom VAE loss function',
    'Compilation & training', 'Visualizing inputs mapped onto latent space',
    'Visualizing samples from the latent space', 'Calling the visualizers']


@pytest.fixture(scope='module')
def cells():
    return jupytext.read(script).cells


def pasted(cells, blocks):
    """Pairs of a cell of the page and the post's block over it."""
    changes = []
    for block in blocks:
        line, code = BLOCKS[block]
        cell, = [cell.source for cell in cells if cell.cell_type == 'code' and f'\n{line}' in f'\n{cell.source}']
        changes.append((cell, code))
    return changes


def test_headings(cells):
    headings = [heading for cell in cells if cell.cell_type == 'markdown'
                for heading in re.findall('^##+ (.*)$', cell.source, re.MULTILINE)]
    assert [heading for heading in headings if not heading.startswith('Not in the post: ')] == HEADINGS
    assert len(headings) - len(HEADINGS) <= 4
    lines = script.read_text().splitlines()
    assert len(lines) <= 480 and max(len(line) for line in lines if not line.startswith('# ')) <= 96


def test_each_cell_uses_names_from_above(digits, cells, tmp_path, monkeypatch):
    """And leaves the post's names behind. Some cells run anew are then what a reader of a notebook expects."""
    names = {'__name__': '__main__', '__file__': str(script)}
    monkeypatch.setattr('sys.argv', [str(script), '--data', str(digits), '--epochs', '1', '--output-dir', str(tmp_path)])
    cells = [cell.source for cell in cells if cell.cell_type == 'code']
    done = set()
    for cell in cells:
        exec(compile(cell, 'a cell', 'exec'), names)
        done |= {block for block, (line, _) in BLOCKS.items() if f'\n{line}' in f'\n{cell}'}
        for block in done:
            left = re.findall(r'^(?:def )?(\w+(?:, \w+)*)(?: = |\()', BLOCKS[block][1], re.MULTILINE)
            assert {name for group in left for name in group.split(', ') if 'viz' not in name} <= set(names)
    assert done == set(BLOCKS) and set(NAMES) <= set(names)
    assert tuple(names['i'].shape) == (None, 28, 28, 1) and names['conv_shape'] == (None, 7, 7, 16)
    # The training goes on; and begins anew with another encoder
    fit, = [k for k, cell in enumerate(cells) if 'vae.fit(' in cell]
    exec(cells[fit], names)
    assert len(names['training']['losses']) == 2 and names['training']['optimizer'][0] == 2 * 4
    encoder, = [k for k, cell in enumerate(cells) if 'cx = i' in cell]
    exec(compile('\n'.join(cells[encoder:fit + 1]).replace('Dense(20', 'Dense(30'), 'cells', 'exec'), names)
    assert len(names['training']['losses']) == 1 and names['training']['optimizer'][0] == 4


# All, and the two halves of which each has only the other's neighbours
@pytest.mark.parametrize('blocks', [list(BLOCKS), list(BLOCKS)[::2], list(BLOCKS)[1::2]], ids=['all', 'even', 'odd'])
def test_the_posts_blocks_fit_in(digits, cells, tmp_path, blocks):
    names = page('--data', digits, '--epochs', 2, '--output-dir', tmp_path, changes=pasted(cells, blocks))
    assert set(NAMES) <= set(names) and names['vae'].count_params() == 26345
    losses = names['vae'].history.history['val_loss']
    assert len(losses) == 2 and 100 < losses[1] < losses[0] < 800
    assert (tmp_path / 'decoded_digits.png').exists() == ('Calling the visualizers' not in blocks)


def configuration(model):
    """The model's, but for the code of sample_z, which has no docstring in the post."""
    configuration = model.get_config()
    for layer in configuration['layers']:
        layer['config'].pop('function', None)
    return configuration


def test_same_layers_and_loss_as_the_post(digits, cells, tmp_path):
    """The same configuration, and for the same seed the same initial weights; one loss, also where it is the post's."""
    ours = train(digits, tmp_path / 'ours', 0)
    weights = ours['vae'].get_weights()
    configurations = [configuration(ours[name]) for name in ('encoder', 'decoder')]
    blocks = ['Encoder definition', 'sample_z', 'Decoder definition']
    theirs = train(digits, tmp_path / 'theirs', 0, changes=pasted(cells, blocks))
    assert [configuration(theirs[name]) for name in ('encoder', 'decoder')] == configurations
    assert all(np.array_equal(one, other) for one, other in zip(theirs['vae'].get_weights(), weights, strict=True))
    K, vae, images = theirs['K'], theirs['vae'], theirs['input_test'][:64]
    # No pixel so near to black or white that the post's clipping would change its logarithm
    output = theirs['decoder'].get_layer('decoder_output')
    output.set_weights([0.1 * array for array in output.get_weights()])
    here = theirs['kl_reconstruction_loss'](vae.input, vae.output)
    exec(BLOCKS['Defining custom VAE loss function'][1], theirs)
    there = theirs['kl_reconstruction_loss'](vae.input, vae.output)
    gradients = [K.gradients(loss, vae.trainable_weights) for loss in (here, there)]
    # Both in one run, so that both see the same draw of z
    values = K.function([vae.input, K.learning_phase()], [here, there, *gradients[0], *gradients[1]])([images, 1])
    np.testing.assert_allclose(values[0], values[1], rtol=1e-5)
    count = len(vae.trainable_weights)
    for one, other in zip(values[2:2 + count], values[2 + count:], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('split, steps', [(0.5, 2 * 5), (0, 2 * 10)])
def test_changed_settings_count_everywhere(digits, tmp_path, split, steps):
    names = page('--data', digits, '--output-dir', tmp_path, changes=[
        ('no_epochs = 100', 'no_epochs = 2'), ('batch_size = 128', 'batch_size = 64'), ('latent_dim = 2\n', 'latent_dim = 5\n'),
        ('validation_split = 0.2', f'validation_split = {split}'), ('[8, 16], [16, 8]', '[4, 8, 12], [12, 8, 4]')])
    assert len(names['vae'].history.epoch) == 2
    assert names['K'].get_value(names['vae'].optimizer.iterations) == steps
    assert [layer.filters for layer in names['encoder'].layers if hasattr(layer, 'filters')] == [4, 8, 12]
    assert names['decoder'].input_shape == (None, 5)
    assert names['plt'].figure(names['plt'].get_fignums()[0]).get_suptitle() == 'the first 2 of 5 dimensions'
    assert {'latent_space.png', 'decoded_digits.png', 'loss.png'} <= {path.name for path in tmp_path.iterdir()}


def test_dcgan_brings_the_posts_epochs(digits):
    for arguments, epochs in [([], 100), (['--architecture', 'dcgan'], 5), (['--architecture', 'dcgan', '--epochs', 7], 7)]:
        assert page('--data', digits, *arguments, until='Data preprocessing')['no_epochs'] == epochs
