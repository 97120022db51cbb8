"""A training that is stopped goes on as if nothing had been; one that goes wrong says so."""
import os
import shutil
import tempfile

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
    assert names['steps'] == 3 * 10  # which make other random numbers than the first epochs'
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
    """What is in the output folder is drawn, and that is said."""
    before = contents(copy)
    shutil.copy(more_digits, copy.parent)
    monkeypatch.setenv('HOME', str(copy))
    for arguments in [(more_digits, copy, 0), ('~/../digits.npz', '~', 0, '--weights', '~/vae_weights.h5')]:
        names = train(*arguments)
        out, err = capfd.readouterr()
        assert 'replaced' not in err and f'begins with the training in {copy / "vae_weights.h5"}' in out
        assert names['output_dir'] == copy and contents(copy) == before
        assert len(names['losses']) == 3 and names['K'].get_value(names['vae'].optimizer.iterations) == 30

def test_files_that_cannot_be_written(more_digits, copy, tmp_path, capfd):
    """history.csv and an old figure cost a warning at most; weights end the run with one line, and leave no debris."""
    before = contents(copy)['vae_weights.h5']
    line = ended(more_digits, copy, '--weights', copy / 'vae_weights.h5',
                 changes=[('part.write_bytes(memory.getbuffer())', "part.write_bytes(b'some'), open('/dev/full', 'w', 1).write(' \\n')")])
    assert line.startswith('error: epoch 4 cannot be saved: [Errno 28]') and '\n' not in line
    assert {path.name for path in copy.iterdir()} == {'vae_weights.h5', 'history.csv'}
    assert contents(copy)['vae_weights.h5'] == before
    for name in ('history.csv', 'latent_space_zoom.png'):
        (tmp_path / 'another' / name).mkdir(parents=True)
    names = page('--data', more_digits, '--epochs', 2, '--output-dir', tmp_path / 'another')
    warnings = [line for line in capfd.readouterr().err.splitlines() if line.startswith('warning: ')]
    assert len(warnings) == 2 and 'history.csv' in warnings[0] and len(names['losses']) == 2
    assert (tmp_path / 'another' / 'decoded_digits.png').exists()

def test_weights_under_other_names_and_links(more_digits, copy, tmp_path):
    """A name that Keras takes for another format; a whole model of Keras; a link to another disk, which stays one."""
    one, other, link = tmp_path / 'best.weights.h5', tmp_path / 'model.h5', tmp_path / 'out' / 'vae_weights.h5'
    shutil.copy(copy / 'vae_weights.h5', one)
    names = train(more_digits, copy, 0, '--weights', one)
    names['vae'].save(other)
    weights_of_three = names['vae'].get_weights()
    names = train(more_digits, tmp_path, 0, '--weights', other)
    assert all(map(np.array_equal, names['vae'].get_weights(), weights_of_three)) and names['losses'] == []
    link.parent.mkdir()
    with tempfile.TemporaryDirectory(dir='/dev/shm') as disk:
        link.symlink_to(shutil.copy(one, disk))
        train(more_digits, link.parent, 1, '--weights', link)
        assert link.is_symlink() and len(weights(link)) == 42 + 61 and epochs(link.parent) == [0, 1, 2, 3]
        assert os.listdir(disk) == ['best.weights.h5']

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
    assert not (tmp_path / 'history.csv').exists()
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
    for word in ('error: ', 'val_loss', f'epoch {number} is not finite', 'larger batches'):
        assert word in line
    assert all(np.isfinite(array).all() for array in weights(copy / 'vae_weights.h5').values())

def test_divergence_replaces_nothing(more_digits, copy):
    """A learning rate far too large makes the first steps diverge."""
    changes = [("optimizer='adam'", 'optimizer=keras.optimizers.legacy.Adam(1e9)')]
    before = contents(copy)
    line = ended(more_digits, copy, '--weights', copy / 'vae_weights.h5', changes=changes)
    assert 'epoch 4 is' in line
    line = ended(more_digits, copy, changes=changes)
    assert 'epoch 1 is' in line
    assert contents(copy) == before
