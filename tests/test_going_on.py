"""A training that is stopped goes on as if nothing had been; one that goes wrong says so."""
import shutil

import h5py
import matplotlib.pyplot as plt
import numpy as np
import pytest

from conftest import page, refused, rows, train, weights


@pytest.fixture(scope='module')
def data(mnist, tmp_path_factory):
    path = tmp_path_factory.mktemp('data') / 'digits.npz'
    np.savez(path, x_train=mnist['x_train'][:2560], x_test=mnist['x_test'][:200], y_test=mnist['y_test'][:200])
    return path


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


def test_elsewhere_it_is_the_same_training(data, three, three_and_three, tmp_path, capfd):
    """The same seed and weights; another training in that folder is replaced, and that is said."""
    shutil.copy(three / 'vae_weights.h5', tmp_path / 'start.h5')
    train(data, tmp_path, 1, '--seed', 7)
    assert 'replaced' not in capfd.readouterr().err
    train(data, tmp_path, 3, '--weights', tmp_path / 'start.h5')
    note, = [line for line in capfd.readouterr().err.splitlines() if 'replaced' in line]
    assert note.startswith('note: ') and str(tmp_path / 'vae_weights.h5') in note
    assert rows(tmp_path) == rows(three_and_three)
    ours, theirs = weights(tmp_path / 'vae_weights.h5'), weights(three_and_three / 'vae_weights.h5')
    assert ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_stopped_in_its_first_epoch_in_the_same_folder(data, copy, monkeypatch, capfd):
    """A relative name of the file is no other file; what it learns before the Ctrl-C is kept there."""
    monkeypatch.chdir(copy)
    before = weights(copy / 'vae_weights.h5')['optimizer/0']
    train(data, '.', 5, '--weights', 'vae_weights.h5', changes=[
        ('        if self.interrupted:\n            self.model', '        self.interrupted = True\n        if self.interrupted:\n            self.model')])
    out, err = capfd.readouterr()
    assert 'replaced' not in err and 'Interrupted with 3 whole epochs in' in out
    assert weights(copy / 'vae_weights.h5')['optimizer/0'] == before + 1 and epochs(copy) == [0, 1, 2]


def test_no_epochs_leave_all_as_it_is(data, copy, capfd):
    before = {name: (copy / name).read_bytes() for name in ('vae_weights.h5', 'history.csv')}
    names = page('--data', data, '--epochs', 0, '--output-dir', copy)
    assert 'replaced' not in capfd.readouterr().err and names['training']['losses'] == []
    train(data, copy, 0, '--weights', copy / 'vae_weights.h5')
    assert {name: (copy / name).read_bytes() for name in before} == before


def test_files_of_an_earlier_form_and_of_keras(data, three, tmp_path):
    """The earlier one had the optimizer, but no losses; Keras's own has nothing but weights."""
    for k, without in enumerate((['losses'], ['losses', 'optimizer'])):
        path = shutil.copy(three / 'vae_weights.h5', tmp_path / f'{k}.h5')
        with h5py.File(path, 'a') as file:
            for name in without:
                del file[name]
        train(data, tmp_path / f'out{k}', 1, '--weights', path)
        assert epochs(tmp_path / f'out{k}') == [0]
        with h5py.File(tmp_path / f'out{k}' / 'vae_weights.h5') as file:
            assert file['optimizer/0'][()] == (64 if k == 0 else 16)
        assert rows(tmp_path / f'out{k}')[0]['loss'] < rows(three)[1]['loss']  # going on all the same


def test_loss_figure(six, data, tmp_path):
    page('--data', data, '--epochs', 0, '--weights', six / 'vae_weights.h5', '--output-dir', tmp_path)
    figure = plt.figure(plt.get_fignums()[-1])
    assert [axes.get_ylabel() for axes in figure.axes] == ['loss', 'reconstruction_loss', 'kl_loss']
    for axes in figure.axes:
        training, validation = axes.lines
        name = axes.get_ylabel()
        np.testing.assert_array_equal(training.get_xdata(), [1, 2, 3, 4, 5, 6])
        np.testing.assert_array_equal(training.get_ydata(), [row[name] for row in rows(six)])
        np.testing.assert_array_equal(validation.get_ydata(), [row[f'val_{name}'] for row in rows(six)])
    drawn = plt.imread(tmp_path / 'loss.png')
    assert drawn.shape == (1000, 800, 4) and drawn.std() > 0.05


@pytest.fixture(scope='module')
def diverging(mnist, tmp_path_factory):
    """Nearly black images to train on, noise to validate with: val_loss overflows within a few small batches."""
    random = np.random.default_rng(0)
    dark = (mnist['x_train'][:800] == 255).astype('uint8') * 64
    noise = random.integers(0, 256, (200, 28, 28)).astype('uint8')
    path = tmp_path_factory.mktemp('diverging') / 'images.npz'
    np.savez(path, x_train=np.concatenate([dark // 64, noise]), x_test=noise[:50])
    return path


def test_divergence_stops_the_training(diverging, copy, capsys):
    """Whichever epoch it comes in, the ones before it are kept."""
    line = refused(capsys, '--data', diverging, '--epochs', 9, '--output-dir', copy, '--batch-size', 2,
                   '--weights', copy / 'vae_weights.h5', status=1)
    number = len(epochs(copy)) + 1
    assert number >= 4 and '\n' not in line
    for word in ('error: ', 'val_loss', f'epoch {number}:', str(copy / 'vae_weights.h5'), '--batch-size'):
        assert word in line
    assert all(np.isfinite(array).all() for array in weights(copy / 'vae_weights.h5').values())
    assert not (copy / 'latent_space.png').exists()


def test_divergence_replaces_nothing(data, copy, capsys):
    """A learning rate far too large makes the first steps diverge."""
    arguments = ['--data', data, '--epochs', 2, '--output-dir', copy]
    changes = [("optimizer='adam'", 'optimizer=keras.optimizers.legacy.Adam(1e9)')]
    before = {name: (copy / name).read_bytes() for name in ('vae_weights.h5', 'history.csv')}
    line = refused(capsys, *arguments, '--weights', copy / 'vae_weights.h5', status=1, changes=changes)
    assert 'epoch 4:' in line and f'in {copy / "vae_weights.h5"};' in line
    line = refused(capsys, *arguments, status=1, changes=changes)
    assert 'epoch 1:' in line and 'in no file yet;' in line
    assert {name: (copy / name).read_bytes() for name in before} == before
