"""A training that is stopped goes on as if nothing had been; one that goes wrong says so."""
import shutil

import h5py
import matplotlib.pyplot as plt
import numpy as np
import pytest

from conftest import page, rows, same, train, weights


def epochs(folder):
    return [row['epoch'] for row in rows(folder)]


def contents(folder):
    return {name: (folder / name).read_bytes() for name in ('vae_weights.h5', 'history.csv')}


@pytest.fixture(scope='module')
def folders(more_digits, tmp_path_factory):
    """Six epochs; three; and three that went on for three more where they were."""
    six, three, more = [tmp_path_factory.mktemp(name) for name in ('six', 'three', 'more')]
    train(more_digits, six, 6)
    train(more_digits, three, 3)
    shutil.copytree(three, more, dirs_exist_ok=True)
    train(more_digits, more, 3, '--weights', more / 'vae_weights.h5')
    return six, three, more


@pytest.fixture
def copy(folders, tmp_path):
    """The first three epochs, in a folder to go on in."""
    return shutil.copytree(folders[1], tmp_path / 'copy')


def test_losses_are_those_of_a_training_that_was_not_stopped(folders):
    six, three, more = map(rows, folders)
    assert more[:3] == three == six[:3] and epochs(folders[2]) == list(range(6))
    for went_on, whole in zip(more[3:], six[3:]):
        assert went_on['loss'] == pytest.approx(whole['loss'], rel=0.01)


def test_elsewhere_it_is_the_same_training(more_digits, folders, tmp_path, capfd):
    """The same seed and weights; another training in that folder is replaced, and that is said."""
    shutil.copy(folders[1] / 'vae_weights.h5', tmp_path / 'start.h5')
    train(more_digits, tmp_path, 1, '--seed', 7)
    assert 'replaced' not in capfd.readouterr().err
    names = train(more_digits, tmp_path, 3, '--weights', tmp_path / 'start.h5')
    assert names['seed'] == 42 + 3 * 10  # other random numbers than the first epochs'
    note, = [line for line in capfd.readouterr().err.splitlines() if 'replaced' in line]
    assert note.startswith('note: ') and str(tmp_path / 'vae_weights.h5') in note
    assert rows(tmp_path) == rows(folders[2])
    assert same(tmp_path / 'vae_weights.h5', folders[2] / 'vae_weights.h5')


def test_stopped_in_its_first_epoch_in_the_same_folder(more_digits, copy, monkeypatch, capfd):
    """A relative name of the file is no other file; what it learns before the Ctrl-C is kept there."""
    monkeypatch.chdir(copy)
    before = weights(copy / 'vae_weights.h5')['optimizer/0']
    train(more_digits, '.', 5, '--weights', 'vae_weights.h5', changes=[('interrupted = False', 'interrupted = True')])
    out, err = capfd.readouterr()
    assert 'replaced' not in err and 'Interrupted with 3 whole epochs in' in out
    assert weights(copy / 'vae_weights.h5')['optimizer/0'] == before + 1 and epochs(copy) == [0, 1, 2]


def test_no_epochs_leave_all_as_it_is(more_digits, copy, monkeypatch, capfd):
    before = contents(copy)
    shutil.copy(more_digits, copy.parent)
    names = train(more_digits, copy, 0)
    assert 'replaced' not in capfd.readouterr().err and names['training']['losses'] == []
    monkeypatch.setenv('HOME', str(copy))
    names = train('~/../digits.npz', '~', 0, '--weights', '~/vae_weights.h5')
    assert names['output_dir'] == copy and len(names['training']['losses']) == 3 and contents(copy) == before


def test_a_save_that_fails_costs_no_earlier_one(more_digits, copy):
    before = contents(copy)['vae_weights.h5']
    with pytest.raises(OSError):
        train(more_digits, copy, 1, '--weights', copy / 'vae_weights.h5', changes=[("file['losses'] =", 'raise OSError #')])
    assert contents(copy)['vae_weights.h5'] == before


def test_files_of_an_earlier_form_and_of_keras(more_digits, copy, tmp_path):
    """The earlier one had the optimizer, but no losses; Keras's own has nothing but weights."""
    for k, without in enumerate((['losses'], ['losses', 'optimizer'])):
        path = shutil.copy(copy / 'vae_weights.h5', tmp_path / f'{k}.h5')
        with h5py.File(path, 'a') as file:
            for name in without:
                del file[name]
        train(more_digits, tmp_path / f'out{k}', 1, '--weights', path)
        assert epochs(tmp_path / f'out{k}') == [0]
        with h5py.File(tmp_path / f'out{k}' / 'vae_weights.h5') as file:
            assert file['optimizer/0'][()] == (40 if k == 0 else 10)
        assert rows(tmp_path / f'out{k}')[0]['loss'] < rows(copy)[1]['loss']  # going on all the same


def test_loss_figure(folders, more_digits, tmp_path):
    history = rows(folders[0])
    page('--data', more_digits, '--epochs', 0, '--weights', folders[0] / 'vae_weights.h5', '--output-dir', tmp_path)
    figure = plt.figure(plt.get_fignums()[-1])
    assert [axes.get_ylabel() for axes in figure.axes] == ['loss', 'reconstruction_loss', 'kl_loss']
    for axes in figure.axes:
        training, validation = axes.lines
        name = axes.get_ylabel()
        np.testing.assert_array_equal(training.get_xdata(), [1, 2, 3, 4, 5, 6])
        np.testing.assert_array_equal(training.get_ydata(), [row[name] for row in history])
        np.testing.assert_array_equal(validation.get_ydata(), [row[f'val_{name}'] for row in history])


@pytest.fixture(scope='module')
def diverging(mnist, tmp_path_factory):
    """Nearly black images to train on, noise to validate with: val_loss overflows within a few small batches."""
    random = np.random.default_rng(0)
    dark = (mnist['x_train'][:800] == 255).astype('uint8')
    noise = random.integers(0, 256, (200, 28, 28)).astype('uint8')
    path = tmp_path_factory.mktemp('diverging') / 'images.npz'
    np.savez(path, x_train=np.concatenate([dark, noise]), x_test=noise[:50])
    return path


def ended(data, folder, *more, **settings):
    """The line with which Python ends the run, with status 1."""
    with pytest.raises(SystemExit) as end:
        train(data, folder, 9, *more, **settings)
    return end.value.code


def test_divergence_stops_the_training(diverging, copy):
    """Whichever epoch it comes in, the ones before it are kept."""
    line = ended(diverging, copy, '--batch-size', 2, '--weights', copy / 'vae_weights.h5')
    number = len(epochs(copy)) + 1
    assert number >= 4 and '\n' not in line
    for word in ('error: ', 'val_loss', f'epoch {number}:', str(copy / 'vae_weights.h5'), '--batch-size'):
        assert word in line
    assert all(np.isfinite(array).all() for array in weights(copy / 'vae_weights.h5').values())


def test_divergence_replaces_nothing(more_digits, copy):
    """A learning rate far too large makes the first steps diverge."""
    changes = [("optimizer='adam'", 'optimizer=keras.optimizers.legacy.Adam(1e9)')]
    before = contents(copy)
    line = ended(more_digits, copy, '--weights', copy / 'vae_weights.h5', changes=changes)
    assert 'epoch 4:' in line and f'in {copy / "vae_weights.h5"};' in line
    line = ended(more_digits, copy, changes=changes)
    assert 'epoch 1:' in line and 'in no file yet;' in line
    assert contents(copy) == before
