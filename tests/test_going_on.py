"""A training that is stopped goes on as if nothing had been; one that goes wrong says so."""
import csv
import shutil

import h5py
import numpy as np
import pytest
import tf_keras

import variational_autoencoder as script
from conftest import train

FILES = {'vae_weights.h5', 'history.csv', 'loss.png', 'latent_space.png', 'decoded_digits.png'}


@pytest.fixture(scope='module')
def data(mnist, tmp_path_factory):
    path = tmp_path_factory.mktemp('data') / 'digits.npz'
    np.savez(path, x_train=mnist['x_train'][:2560], x_test=mnist['x_test'][:200], y_test=mnist['y_test'][:200])
    return path


def rows(folder):
    with open(folder / 'history.csv') as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def epochs(folder):
    return [row['epoch'] for row in rows(folder)]


@pytest.fixture(scope='module')
def six(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp('six')
    train(data, folder, 6)
    return folder


@pytest.fixture(scope='module')
def three(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp('three')
    train(data, folder, 3)
    return folder


@pytest.fixture
def copy(three, tmp_path):
    """The first three epochs, in a folder to go on in."""
    return shutil.copytree(three, tmp_path / 'copy')


@pytest.fixture(scope='module')
def three_and_three(data, three, tmp_path_factory):
    folder = shutil.copytree(three, tmp_path_factory.mktemp('more') / 'folder')
    train(data, folder, 3, '--weights', folder / 'vae_weights.h5')
    return folder


def test_losses_are_those_of_a_training_that_was_not_stopped(six, three, three_and_three):
    assert rows(three_and_three)[:3] == rows(three) == rows(six)[:3]
    assert epochs(three_and_three) == list(range(6))
    for went_on, whole in zip(rows(three_and_three)[3:], rows(six)[3:]):
        assert went_on['loss'] == pytest.approx(whole['loss'], rel=0.01)
        # Other random numbers, not the first epochs' once more
        assert went_on['loss'] != whole['loss']


def test_optimizer_goes_on(six, three_and_three):
    for folder in six, three_and_three:
        with h5py.File(folder / 'vae_weights.h5') as file:
            assert file['optimizer/0'][()] == 6 * 2048 / 128
            assert file.attrs['epochs'] == 6


def test_going_on_is_the_same_for_the_same_seed(data, three, three_and_three, tmp_path):
    train(data, tmp_path, 3, '--weights', three / 'vae_weights.h5')
    assert rows(tmp_path) == rows(three_and_three)[3:]


def test_history_of_another_training_is_not_mixed_in(data, three, tmp_path):
    train(data, tmp_path, 4, '--seed', '7')
    assert epochs(tmp_path) == list(range(4))
    train(data, tmp_path, 1, '--weights', three / 'vae_weights.h5')
    assert epochs(tmp_path) == [3]
    train(data, tmp_path, 1, '--weights', tmp_path / 'vae_weights.h5')
    assert epochs(tmp_path) == [3, 4]


def test_rows_after_the_weights_are_dropped(data, copy, three_and_three):
    """As after a kill between a row and its weights."""
    shutil.copy(three_and_three / 'history.csv', copy)
    train(data, copy, 1, '--weights', copy / 'vae_weights.h5')
    assert rows(copy) == rows(three_and_three)[:4]


@pytest.mark.parametrize('content', [b'', b'no table', b'epoch,loss\nfirst,1\n', b'epoch\n2\n', b'epoch,loss\n2,\n',
                                     b'epoch,loss\n2,100.0\n', bytes(range(256))])
def test_another_history_csv_is_not_gone_on_with(three, tmp_path, content):
    training = script.read_training(three / 'vae_weights.h5', 'original', (28, 28, 1))
    assert len(script.read_history(three / 'history.csv', training)) == 3
    (tmp_path / 'history.csv').write_bytes(content)
    assert script.read_history(tmp_path / 'history.csv', training) == []


def test_no_epochs_leave_all_as_it_is(data, copy):
    before = {name: (copy / name).read_bytes() for name in ('vae_weights.h5', 'history.csv', 'loss.png')}
    train(data, copy, 0, '--weights', copy / 'vae_weights.h5')
    assert {name: (copy / name).read_bytes() for name in before} == before


def test_weights_alone(data, three, tmp_path, capsys):
    """Those of another program, or of an earlier version of this one."""
    shutil.copy(three / 'vae_weights.h5', tmp_path / 'alone.h5')
    with h5py.File(tmp_path / 'alone.h5', 'a') as file:
        for name in 'network', 'epochs', 'loss':
            del file.attrs[name]
        del file['optimizer']
    train(data, tmp_path / 'out', 1, '--weights', tmp_path / 'alone.h5')
    said = [line for line in capsys.readouterr().err.splitlines() if 'alone.h5' in line]
    assert len(said) == 1 and 'optimizer starts anew' in said[0]
    assert epochs(tmp_path / 'out') == [0]
    assert rows(tmp_path / 'out')[0]['loss'] < rows(three)[1]['loss']  # going on all the same


def test_keras_loads_the_weights_by_itself(three):
    encoder, conv_shape = script.create_encoder()
    decoder = script.create_decoder(conv_shape)
    vae, _, _ = script.create_vae(encoder, decoder)
    vae.load_weights(three / 'vae_weights.h5')
    with h5py.File(three / 'vae_weights.h5') as file:
        saved = file['encoder/latent_mu/kernel:0'][()]
    np.testing.assert_array_equal(encoder.get_layer('latent_mu').get_weights()[0], saved)


def test_loss_figure(six, three_and_three):
    script.viz_loss(script.read_history(six / 'history.csv', {'epochs': 6, 'loss': rows(six)[-1]['loss']}))
    figure = script.plt.gcf()
    assert [axes.get_ylabel() for axes in figure.axes] == ['loss', 'reconstruction_loss', 'kl_loss']
    for axes in figure.axes:
        training, validation = axes.lines
        name = axes.get_ylabel()
        np.testing.assert_array_equal(training.get_xdata(), [1, 2, 3, 4, 5, 6])
        np.testing.assert_array_equal(training.get_ydata(), [row[name] for row in rows(six)])
        np.testing.assert_array_equal(validation.get_ydata(), [row[f'val_{name}'] for row in rows(six)])
    # Of a training that went on, with its first epochs
    drawn = script.plt.imread(three_and_three / 'loss.png')
    assert drawn.shape == (1000, 800, 4) and drawn.std() > 0.05


@pytest.fixture(scope='module')
def diverging(mnist, tmp_path_factory):
    """Nearly black images to train on, noise to validate with: val_loss overflows within a few small batches."""
    random = np.random.default_rng(0)
    dark = (mnist['x_train'][:800] == 255).astype('uint8')
    noise = random.integers(0, 256, (200, 28, 28)).astype('uint8')
    path = tmp_path_factory.mktemp('diverging') / 'images.npz'
    np.savez(path, x_train=np.concatenate([dark, noise]), x_test=noise[:50])
    return path


def finite(path):
    found = []
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.append(item[()]) if isinstance(item, h5py.Dataset) else None)
    return len(found) > 20 and script.all_finite(found)


def test_divergence_stops_the_training(diverging, copy):
    """Whichever epoch it comes in, the ones before it are kept."""
    (copy / 'loss.png').unlink()
    with pytest.raises(script.TrainingError) as error:
        train(diverging, copy, 9, '--batch-size', '2', '--weights', copy / 'vae_weights.h5')
    number = len(epochs(copy)) + 1
    assert number >= 4
    for word in ('val_loss', f'epoch {number}', str(copy / 'vae_weights.h5'), '--batch-size'):
        assert word in str(error.value)
    assert finite(copy / 'vae_weights.h5')
    assert not (copy / 'loss.png').exists()


def test_divergence_replaces_nothing(monkeypatch, data, copy):
    """A learning rate far too large makes the first steps diverge."""
    def compile_vae(vae, kl_reconstruction_loss, parts):
        vae.compile(tf_keras.optimizers.legacy.Adam(1e9), kl_reconstruction_loss, parts)

    monkeypatch.setattr(script, 'compile_vae', compile_vae)
    before = {name: (copy / name).read_bytes() for name in ('vae_weights.h5', 'history.csv')}
    with pytest.raises(script.TrainingError, match='epoch 4.*vae_weights.h5'):
        train(data, copy, 2, '--weights', copy / 'vae_weights.h5')
    with pytest.raises(script.TrainingError, match='epoch 1.*nothing was saved'):
        train(data, copy, 2)
    assert {name: (copy / name).read_bytes() for name in before} == before
