"""Images of one's own, as arrays in the place of MNIST; pixels and weights that do not fit are refused."""

import numpy as np
import pytest

from helpers import CONFIGURATION, LOSS, PREPROCESSING, TRAINING, WEIGHTS, Page, parts_of_the_loss
from helpers import same_arrays
from test_figures import check_grid

GREY = np.random.default_rng(0).integers(0, 256, (20, 28, 28)).astype('uint8')
COLOUR = np.stack([GREY, GREY, GREY], axis=3)
FLOATS = GREY / 255


@pytest.mark.parametrize(
    'height, width, channels, latent_dim',
    [(28, 28, 1, 2), (20, 36, 1, 2), (28, 30, 1, 4), (30, 28, 3, 2), (25, 27, 4, 2), (3, 2, 1, 2)],
)
def test_sizes_and_colours(mnist, tmp_path, height, width, channels, latent_dim):
    """From the array to the loss and the grid, each pixel stays where it is, and counts."""
    images = mnist['x_train'][: 60 * channels]
    images = np.stack(np.split(images, channels), axis=3)
    images = np.pad(images, [(0, 0), (4, 4), (4, 4), (0, 0)])
    top, left = 18 - height // 2, 18 - width // 2
    images = images[:, top : top + height, left : left + width]
    page = Page(tmp_path, num_samples=15, latent_dim=latent_dim)
    page.use(images[:40], images[40:])
    page.run(last=LOSS)
    np.testing.assert_allclose(page['input_train'], images[:40] / 255, rtol=1e-6)
    assert page['vae'].output_shape == (None, height, width, channels)
    parts = parts_of_the_loss(page)
    assert parts['loss'] == pytest.approx(parts['reconstruction'] + parts['kl'], rel=1e-5)
    check_grid(page)


@pytest.mark.parametrize('kind', ['uint8', 'uint16', 'int64', 'float16', 'float32', 'float64', 'bool'])
def test_kinds_of_numbers(mnist, tmp_path, kind):
    """Each array by its own type. In another run of the cell, nothing changes any more."""
    train, test = mnist['x_train'][:20], mnist['x_test'][:20] / 255
    if kind == 'bool':
        train = train > 127
    elif kind.startswith('float'):
        train = train / 255
    page = Page(tmp_path)
    page.use(train.astype(kind), test)
    page.run(last=PREPROCESSING)
    white = 255 if kind in ('uint8', 'uint16', 'int64') else 1
    for again in range(2):
        np.testing.assert_allclose(page['input_train'][..., 0], train / white, rtol=1e-3)
        np.testing.assert_allclose(page['input_test'][..., 0], test)
        page.run(first=CONFIGURATION, last=PREPROCESSING)


@pytest.mark.parametrize('kind', ['bool', 'float64'])
def test_training_on_images_that_are_not_divided(mnist, tmp_path, kind):
    images = (mnist['x_train'][:160] > 127).astype(kind)
    page = Page(tmp_path, no_epochs=2, batch_size=16)
    page.use(images, images)
    page.run(last=TRAINING)
    first, second = page['vae'].history.history['loss']
    assert 0 < second < first - 10


def refusal(page, last, kind=ValueError):
    """The message of the error that the page ends with, before anything is written."""
    with pytest.raises(kind) as error:
        page.run(last=last)
    assert list(page.folder.iterdir()) == []
    return str(error.value)


@pytest.mark.parametrize(
    'train, test, message',
    [
        (FLOATS * 255, FLOATS, 'input_train goes from 0.0 to 255.0; expected 0 to 1'),
        (FLOATS, FLOATS * 255, 'input_test goes from 0.0 to 255.0; expected 0 to 1'),
        (FLOATS * 1.01 - 0.01, FLOATS, 'input_train goes from -0.01 to 1.0; expected 0 to 1'),
        (FLOATS * 1.01, FLOATS, 'input_train goes from 0.0 to 1.01; expected 0 to 1'),
        (np.int32(GREY) * 257, GREY, 'to 257.0; expected 0 to 1 (integers were divided by 255)'),
        (np.where(FLOATS > 0.9, np.nan, FLOATS), FLOATS, 'input_train goes from nan to nan'),
        (GREY[:0], GREY, 'zero-size array'),
        (GREY, GREY[:, 1:], 'cannot reshape'),
        (GREY, COLOUR, 'cannot reshape'),
    ],
)
def test_refused_images(tmp_path, train, test, message):
    page = Page(tmp_path)
    page.use(train, test)
    assert message in refusal(page, PREPROCESSING)


@pytest.mark.parametrize(
    'images, latent_dim', [(COLOUR, 2), (GREY[:, :20], 2), (GREY, 8)], ids=['colour', 'size', 'latent_dim']
)
def test_weights_that_do_not_fit(tmp_path, images, latent_dim):
    page = Page(tmp_path, weights=str(WEIGHTS), latent_dim=latent_dim)
    page.use(images, images)
    assert f'{WEIGHTS} is of a network with other' in refusal(page, TRAINING)


def test_weights_of_another_size_that_fit(tmp_path):
    """28 and 25 pixels are both halved to 7."""
    page = Page(tmp_path, weights=str(WEIGHTS), no_epochs=0)
    page.use(GREY[:, :25, :25], GREY[:, :25, :25])
    page.run(last=TRAINING)
    page['vae'].save_weights(tmp_path / 'network.h5')
    assert same_arrays(tmp_path / 'network.h5', WEIGHTS)


def test_missing_weights(tmp_path):
    page = Page(tmp_path, weights='missing.h5')
    page.use(GREY, GREY)
    assert 'missing.h5' in refusal(page, TRAINING, OSError)
