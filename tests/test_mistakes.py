"""What does not fit is refused before training, in one line, and nothing is written."""

import numpy as np
import pytest

from conftest import LOSS, REFERENCE, TRAINING, Page

WEIGHTS = REFERENCE / 'original' / 'vae_weights.h5'
GREY = np.random.default_rng(0).integers(0, 256, (20, 28, 28)).astype('uint8')
COLOUR = np.stack([GREY, GREY, GREY], axis=3)
FLOATS = GREY / 255


@pytest.fixture
def refuse(tmp_path, monkeypatch, capsys):
    """A function that runs the page with flags that do not fit, and returns the error."""
    monkeypatch.chdir(tmp_path)

    def refuse(**flags):
        before = sorted(tmp_path.rglob('*'))
        page = Page(tmp_path / 'output', **flags)
        with pytest.raises(SystemExit) as end:
            page.run(last=LOSS)
        assert end.value.code == 2
        assert sorted(tmp_path.rglob('*')) == before
        *_, error = capsys.readouterr().err.splitlines()
        assert error.startswith('variational_autoencoder.py: error: ')
        return error.removeprefix('variational_autoencoder.py: error: ')

    return refuse


@pytest.mark.parametrize(
    'arrays, words',
    [
        pytest.param({'x_train': None}, 'x_train is not a file', id='an array is missing'),
        pytest.param({'x_test': GREY[:0]}, 'x_test (0, 28, 28)', id='no images'),
        pytest.param({'x_train': GREY.reshape(20, 784)}, 'x_train (20, 784)', id='flattened'),
        pytest.param(
            {'x_train': np.moveaxis(COLOUR, 3, 1)}, 'x_train (20, 3, 28, 28)', id='channels first'
        ),
        pytest.param({'x_test': GREY[:, 1:]}, 'x_test (20, 27, 28)', id='two sizes'),
        pytest.param({'x_test': COLOUR}, 'x_test (20, 28, 28, 3)', id='grey and colour'),
        pytest.param(
            {'x_train': np.array([GREY[0], None], dtype=object)}, 'Object arrays', id='a list of sizes'
        ),
        pytest.param({'y_test': np.zeros(19)}, '19 labels for 20 test images', id='too few labels'),
        pytest.param({'y_test': np.eye(20)}, '400 labels for 20 test images', id='one-hot labels'),
        pytest.param(
            {'x_train': FLOATS * 255},
            'x_train has pixels from 0 to 255; expected the whole range from 0 to 1',
            id='floats to 255',
        ),
        pytest.param(
            {'x_train': FLOATS * 2 - 1},
            'from -1 to 1; expected the whole range from 0 to 1',
            id='from -1 to 1',
        ),
        pytest.param(
            {'x_train': FLOATS / 255},
            'to 0.00392157; expected the whole range from 0 to 1',
            id='divided twice',
        ),
        pytest.param(
            {'x_train': GREY // 128},
            'from 0 to 1; expected the whole range from 0 to 255',
            id='integers of 0 and 1',
        ),
        pytest.param(
            {'x_test': FLOATS},
            'x_test has pixels from 0 to 1; expected the whole range from 0 to 255',
            id='integers and floats',
        ),
        pytest.param(
            {'x_train': np.int32(GREY) * 257},
            'to 65535; expected the whole range from 0 to 255',
            id='sixteen bits',
        ),
        pytest.param({'x_train': np.where(FLOATS > 0.9, np.nan, FLOATS)}, 'from nan to nan', id='NaN'),
    ],
)
def test_images(refuse, arrays, words):
    arrays = {'x_train': GREY, 'x_test': GREY, **arrays}
    np.savez('images.npz', **{name: array for name, array in arrays.items() if array is not None})
    assert words in refuse(data='images.npz')


@pytest.mark.parametrize('content', [b'no archive', WEIGHTS.read_bytes()[:1000], b''])
def test_other_files_than_images(refuse, tmp_path, content):
    (tmp_path / 'images.npz').write_bytes(content)
    error = refuse(data='images.npz')
    assert error.startswith('cannot use images.npz')
    assert error.endswith('expected an .npz file with x_train and x_test')


@pytest.mark.parametrize('flags', [{'epochs': -1}, {'batch_size': 1}])
def test_numbers(refuse, digits, flags):
    error = refuse(data=digits, **flags)
    assert error == '--epochs must be at least 0, and --batch-size at least 2'


def test_weights_of_another_network(refuse, digits):
    error = refuse(data=digits, architecture='dcgan-9m', weights=str(WEIGHTS))
    assert error == f'{WEIGHTS} does not fit the dcgan-9m network for images of (28, 28, 1)'


def test_weights_of_other_images(refuse):
    np.savez('colour.npz', x_train=COLOUR, x_test=COLOUR)
    error = refuse(data='colour.npz', weights=str(WEIGHTS))
    assert error == f'{WEIGHTS} does not fit the original network for images of (28, 28, 3)'


@pytest.mark.parametrize('content', [b'no weights', WEIGHTS.read_bytes()[:100_000], None])
def test_broken_weights(refuse, digits, tmp_path, content):
    if content is not None:
        (tmp_path / 'weights.h5').write_bytes(content)
    error = refuse(data=digits, weights='weights.h5')
    assert error.startswith('cannot read weights.h5: ')


def test_nothing_to_draw(refuse, digits):
    assert 'vae_weights.h5' in refuse(data=digits, epochs=0)


def test_loss_that_is_not_finite(digits, tmp_path):
    """The epochs before it stay saved."""
    page = Page(tmp_path, data=digits, epochs=1).run(last=TRAINING)
    before = (tmp_path / 'vae_weights.h5').read_bytes()
    page.edit(TRAINING, "'adam'", 'keras.optimizers.legacy.Adam(1e9)')
    with pytest.raises(SystemExit) as end:
        page.run(first=TRAINING)
    assert end.value.code == 'error: the loss of epoch 2 is not finite; try a smaller learning rate'
    assert (tmp_path / 'vae_weights.h5').read_bytes() == before
