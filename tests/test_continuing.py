"""A training that was stopped continues as if it had not been, and nothing that was trained is lost."""

import shutil

import h5py
import numpy as np
import pytest
import tf_keras as keras

from conftest import SAVING, TRAINING, Page, read_arrays, same_arrays


def train(folder, **flags):
    """Run the page up to its training; return it."""
    return Page(folder, **flags).run(last=TRAINING)


@pytest.fixture(scope='module')
def two_epochs(more_digits, tmp_path_factory):
    """The folder of a training of two epochs, of 10 steps each."""
    folder = tmp_path_factory.mktemp('two')
    Page(folder, data=more_digits, epochs=2).run()
    return folder


@pytest.fixture
def folder(two_epochs, tmp_path):
    """A copy of that folder."""
    return shutil.copytree(two_epochs, tmp_path / 'copy')


@pytest.fixture
def weights(folder):
    """The file of weights in that copy."""
    return str(folder / 'vae_weights.h5')


def test_two_and_two_epochs_are_four(weights, folder, more_digits, tmp_path):
    two = read_arrays(weights)['history']
    train(folder, data=more_digits, epochs=2, weights=weights)
    continued = read_arrays(weights)
    train(tmp_path / 'four', data=more_digits, epochs=4)
    four = read_arrays(tmp_path / 'four' / 'vae_weights.h5')
    assert list(continued['history'][:, 0]) == [1, 2, 3, 4]
    np.testing.assert_array_equal(continued['history'][:2], two)
    np.testing.assert_array_equal(four['history'][:2], two)
    np.testing.assert_allclose(continued['history'][2:, 1], four['history'][2:, 1], rtol=0.01)
    assert continued['optimizer/0'] == four['optimizer/0'] == 40


def test_the_optimizer_continues(weights, folder, more_digits):
    """The first fit begins with the state in the file, and the next one with the current state."""
    saved = read_arrays(weights)
    page = Page(folder, data=more_digits, epochs=1, weights=weights)
    clear = 'optimizer_state.clear()'
    page.edit(SAVING, clear, f'{clear}\n        states.append(self.model.optimizer.get_weights())')
    states = []
    page.names['states'] = states
    page.run(last=TRAINING)
    assert len(states[0]) == 1 + 2 * 30  # steps, and two moments of each trainable array
    for number, array in enumerate(states[0]):
        np.testing.assert_array_equal(array, saved[f'optimizer/{number}'])

    after_it = read_arrays(weights)
    page.run_cell(page.cells_under(TRAINING)[-1])
    for number, array in enumerate(states[1]):
        np.testing.assert_array_equal(array, after_it[f'optimizer/{number}'])
    assert [row[0] for row in page['losses']] == [1, 2, 3, 4]


def test_other_random_numbers_follow(weights, folder, more_digits, monkeypatch):
    """With the first seed again, the images would be shuffled as before."""
    seeds = []
    monkeypatch.setattr(keras.utils, 'set_random_seed', seeds.append)
    Page(folder, data=more_digits, epochs=1, weights=weights, seed=7).run(last=SAVING)
    assert seeds == [7, 7 + 2]


def test_only_drawing_gives_the_same_files(folder, more_digits, capsys):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    page = Page(folder, data=more_digits, epochs=0).run()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert len(page['losses']) == 2
    assert 'Train on' not in capsys.readouterr().out


def test_another_training_keeps_the_file_before(weights, folder, more_digits, tmp_path):
    first = shutil.copy(weights, tmp_path / 'first.h5')
    train(folder, data=more_digits, epochs=2, seed=7)
    assert same_arrays(f'{weights}.bak', first)
    assert len(read_arrays(weights)['history']) == 2

    train(folder, data=more_digits, epochs=1, weights=f'{weights}.bak')
    assert len(read_arrays(weights)['history']) == 3


@pytest.mark.parametrize('epoch', [1, 2])
def test_interrupted_while_it_saves(weights, folder, more_digits, tmp_path, epoch):
    """The file of the epoch before, or of the training before, stays whole, and figures are drawn."""
    first = shutil.copy(weights, tmp_path / 'first.h5')
    (folder / 'decoded_digits.png').unlink()
    page = Page(folder, data=more_digits, epochs=2)
    history = "file['history'] = [*losses, row]"
    interruption = f'if epoch == {epoch - 1}:\n                raise KeyboardInterrupt'
    page.edit(SAVING, history, f'{history}\n            {interruption}')
    page.run()
    assert (folder / 'decoded_digits.png').exists()
    assert len(page['losses']) == epoch - 1
    if epoch == 1:
        assert same_arrays(weights, first)
    else:
        assert len(read_arrays(weights)['history']) == 1
        assert read_arrays(weights)['optimizer/0'] == 10


def test_a_file_without_losses(weights, folder, more_digits):
    """As one that Keras wrote, or an earlier form of this page: only its weights are used."""
    after_two = read_arrays(weights)['history'][1, 1]
    with h5py.File(weights, 'a') as file:
        del file['history']
    page = train(folder, data=more_digits, epochs=1, weights=weights)
    ((epoch, loss, _),) = page['losses']
    assert epoch == 1
    assert loss < after_two
