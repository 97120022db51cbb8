"""Images of one's own, as arrays in the place of MNIST; what cannot be trained on is refused."""

import re

import numpy as np
import pytest

from helpers import CONFIGURATION, LOSS, ORIGINAL, PREPROCESSING, TRAINING, Page, check_grid

GREY = np.random.default_rng(0).integers(0, 256, (20, 28, 28)).astype('uint8')
COLOUR = np.stack([GREY, GREY, GREY], axis=3)
FLOATS = GREY / 255
WEIGHTS = str(ORIGINAL / 'vae_weights.h5')


@pytest.mark.parametrize(
    'height, width, channels, latent_dim',
    [(20, 36, 1, 2), (28, 30, 1, 4), (30, 28, 3, 2), (25, 27, 3, 2), (3, 2, 1, 2)],
)
def test_sizes_and_colours(mnist, tmp_path, height, width, channels, latent_dim):
    """From the array to the grid, each pixel stays where it is."""
    images = mnist['x_train'][: 60 * channels]
    images = np.stack(np.split(images, channels), axis=3)
    images = np.pad(images, [(0, 0), (4, 4), (4, 4), (0, 0)])
    top, left = 18 - height // 2, 18 - width // 2
    images = images[:, top : top + height, left : left + width]
    page = Page(tmp_path, latent_dim=latent_dim)
    page.use(images[:40], images[40:])
    page.run(last=LOSS)
    np.testing.assert_allclose(page['input_train'], images[:40] / 255, rtol=1e-6)
    assert page['vae'].output_shape == (None, height, width, channels)
    page.names['output_dir'] = tmp_path
    check_grid(page)


@pytest.mark.parametrize('kind', ['uint8', 'uint16', 'int64', 'float16', 'float32', 'float64', 'bool'])
def test_kinds_of_numbers(mnist, tmp_path, kind):
    """In another run of the cell, nothing changes any more."""
    images = mnist['x_train'][:20]
    if kind == 'bool':
        images = images > 127
    elif kind.startswith('float'):
        images = images / 255
    images = images.astype(kind)
    page = Page(tmp_path)
    page.use(images, images)
    page.run(last=PREPROCESSING)
    white = 255 if kind in ('uint8', 'uint16', 'int64') else 1
    expected = images.astype('float64') / white
    for name in ('input_train', 'input_test'):
        assert page[name].dtype == 'float32'
        np.testing.assert_allclose(page[name][:, :, :, 0], expected, rtol=1e-3)
    once = page['input_train']
    page.run(first=CONFIGURATION, last=PREPROCESSING)
    np.testing.assert_array_equal(page['input_train'], once)


@pytest.mark.parametrize(
    'targets', [np.arange(20)[:, np.newaxis], list(range(20)), np.arange(20).astype('uint8')]
)
def test_targets(tmp_path, targets):
    """In a column, as those of CIFAR-10 are, as a list, or as bytes."""
    page = Page(tmp_path)
    page.use(GREY, GREY, targets)
    page.run(last=PREPROCESSING)
    np.testing.assert_array_equal(page['target_test'], np.arange(20))


def refusal(page, last, kind=ValueError):
    """The message of the error that the page ends with, before anything is written."""
    with pytest.raises(kind) as error:
        page.run(last=last)
    assert list(page.folder.iterdir()) == []
    return str(error.value)


@pytest.mark.parametrize(
    'train, test, message',
    [
        (FLOATS * 255, FLOATS, 'input_train has pixels from 0.0 to 255.0; expected .* from 0 to 1'),
        (FLOATS * 2 - 1, FLOATS, 'from -1.0 to 1.0; expected the whole range from 0 to 1'),
        (FLOATS / 255, FLOATS, 'to 0.0039.*; expected the whole range from 0 to 1'),
        (FLOATS * 0.099, FLOATS, 'to 0.099'),
        (GREY // 128, GREY, 'from 0 to 1; expected the whole range from 0 to 255'),
        (GREY, FLOATS, 'input_test has pixels from 0.0 to 1.0; expected the whole range from 0 to 255'),
        (FLOATS, GREY, 'input_test has pixels from 0 to 255; expected the whole range from 0 to 1'),
        (np.int32(GREY) * 257, GREY, 'to 65535; expected the whole range from 0 to 255'),
        (np.where(FLOATS > 0.9, np.nan, FLOATS), FLOATS, 'from nan to nan'),
        (GREY > 255, GREY > 0, 'from False to False'),
        (np.moveaxis(COLOUR, 3, 1), np.moveaxis(COLOUR, 3, 1), r'\(3, 28, 28\); expected 1 or 3 channels'),
        (COLOUR[..., :2], COLOUR[..., :2], r'\(28, 28, 2\); expected 1 or 3 channels, at the end'),
        (np.repeat(COLOUR, 2, 3)[..., :4], np.repeat(COLOUR, 2, 3)[..., :4], r'\(28, 28, 4\)'),
        (GREY[:0], GREY, 'zero-size array'),
        (GREY, GREY[:, 1:], 'cannot reshape'),
        (GREY, COLOUR, 'cannot reshape'),
    ],
)
def test_refused_images(tmp_path, train, test, message):
    page = Page(tmp_path)
    page.use(train, test)
    assert re.search(message, refusal(page, PREPROCESSING))


@pytest.mark.parametrize('brightest', [0.11, 0.9])
def test_dark_images(tmp_path, brightest):
    page = Page(tmp_path)
    page.use(FLOATS * brightest, FLOATS * brightest)
    page.run(last=PREPROCESSING)
    assert page['input_train'].max() == pytest.approx(brightest)


@pytest.mark.parametrize('targets', [np.zeros(19), np.eye(20), ['cat'] * 20])
def test_refused_targets(tmp_path, targets):
    page = Page(tmp_path)
    page.use(GREY, GREY, targets)
    refusal(page, PREPROCESSING)


@pytest.mark.parametrize(
    'images, settings, words',
    [
        (GREY, {'architecture': 'dcgan'}, 'the dcgan network for images of the shape (28, 28, 1)'),
        (COLOUR, {}, 'the original network for images of the shape (28, 28, 3)'),
        (GREY[:, :20], {}, 'the original network for images of the shape (20, 28, 1)'),
        (GREY, {'latent_dim': 8}, 'for images of the shape (28, 28, 1) with latent_dim = 8'),
    ],
)
def test_weights_that_do_not_fit(tmp_path, images, settings, words):
    page = Page(tmp_path, weights=WEIGHTS, **settings)
    page.use(images, images)
    message = refusal(page, TRAINING)
    assert message.startswith(f'{WEIGHTS} does not fit the ')
    assert words in message


def test_missing_weights(tmp_path):
    page = Page(tmp_path, weights='missing.h5')
    page.use(GREY, GREY)
    assert 'missing.h5' in refusal(page, TRAINING, OSError)
