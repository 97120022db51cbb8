"""Any stack of images in MNIST's place: each set is trained on for a moment and drawn."""
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from conftest import page

def run_on(folder, *more, until='# the end', **arrays):
    np.savez(folder / 'images.npz', **arrays, y_train=np.array(['not needed', None], dtype=object))
    return page('--data', folder / 'images.npz', '--epochs', 1, '--output-dir', folder, *more, until=until)

@pytest.mark.parametrize('height, width, channels', [
    pytest.param(20, 36, None, id='grey, not square'),
    pytest.param(30, 25, 3, id='colour, not divisible by four'),
    pytest.param(1, 1, None, id='a single pixel')])
def test_sizes_and_colours(mnist, tmp_path, height, width, channels):
    stack = np.pad(mnist['x_train'][:720], [(0, 0), (4, 4), (4, 4)])
    stack = stack[:, 18 - height // 2:, 18 - width // 2:][:, :height, :width]
    stack = np.stack(np.split(stack, 3), axis=3) if channels == 3 else stack[:240]
    names = run_on(tmp_path, x_train=stack[:200], x_test=stack[200:], y_test=mnist['y_train'][200:240])
    decoder = names['decoder']
    assert names['vae'].output_shape == (None, height, width, channels or 1)
    # The post re-reads images that are not square row by row at the wrong width
    expected = stack[:200].reshape(200, height, width, channels or 1) / np.float32(255)
    np.testing.assert_array_equal(names['input_train'], expected)
    axes, = plt.figure(plt.get_fignums()[1]).axes
    image = np.asarray(axes.images[0].get_array())
    assert image.shape[:2] == (15 * height, 15 * width)
    grid = np.linspace(-4, 4, 15)
    for r, c in [(0, 0), (0, 14), (14, 0), (3, 11), (7, 7)]:
        tile = image[r * height:(r + 1) * height, c * width:(c + 1) * width]
        decoded = decoder.predict(np.array([[grid[c], grid[14 - r]]]))[0]
        np.testing.assert_allclose(tile.reshape(decoded.shape), decoded, atol=1e-5)
    np.testing.assert_array_equal(axes.get_xticks(), [width // 2 + k * width for k in range(15)])
    np.testing.assert_array_equal(axes.get_yticks(), [height // 2 + k * height for k in range(15)])
    assert all(plt.imread(tmp_path / f'{name}.png').std() > 0.05 for name in ('latent_space', 'decoded_digits'))

def test_grid_of_large_images_shows_every_kth_pixel(mnist, tmp_path):
    stack = np.repeat(np.repeat(mnist['x_train'][:20], 10, axis=1), 6, axis=2)
    names = run_on(tmp_path, x_train=stack[:10], x_test=stack[10:])
    axes, = plt.figure(plt.get_fignums()[1]).axes
    image = np.squeeze(axes.images[0].get_array())
    height, width = 280 // 4, 168 // 4  # the figure has 66 pixels for each tile
    assert image.shape == (15 * height, 15 * width)
    decoded = names['decoder'].predict(np.array([[-4, 4]]))[0, ..., 0]
    np.testing.assert_allclose(image[:height, :width], decoded[::4, ::4], atol=1e-5)
    assert list(axes.get_xticks())[:2] == [21, 21 + 42]
    axes, = plt.figure(plt.get_fignums()[0]).axes  # without labels no colour bar
    assert len(axes.collections[0].get_facecolor()) == 1

@pytest.mark.parametrize('kind', ['uint8', 'uint16', 'int64', 'float16', 'float32', 'float64', 'bool'])
def test_kinds_of_numbers(mnist, tmp_path, kind):
    stack = mnist['x_train'][:240]
    stack = {'u': stack, 'i': stack, 'f': stack / 255, 'b': stack > 99}[kind[0]].astype(kind)
    names = run_on(tmp_path, x_train=stack[:200], x_test=stack[200:], until='Creating the encoder')
    expected = np.float32(stack[:200]) / np.float32(255 if kind[0] in 'ui' else 1)
    assert names['input_train'].dtype == 'float32' and names['input_train'].shape == (200, 28, 28, 1)
    np.testing.assert_allclose(names['input_train'][..., 0], expected, rtol=1e-6)

def test_grey_with_and_without_channels(mnist, tmp_path):
    stack = mnist['x_train'][:50]
    names = run_on(tmp_path, x_train=stack[..., np.newaxis], x_test=stack, y_test=mnist['y_train'][:50, np.newaxis])
    np.testing.assert_array_equal(names['input_train'], names['input_test'])
    assert len(plt.figure(plt.get_fignums()[0]).axes) == 2  # labels in a column, as in CIFAR

@pytest.fixture(scope='module')
def scatter(digits, tmp_path_factory):
    """A function: the axes and the colour bar that the page draws of labels, with all images at (0, 0)."""
    names = page('--data', digits, '--epochs', 1, '--output-dir', tmp_path_factory.mktemp('names'))

    def scatter(labels):
        encoder = SimpleNamespace(predict=lambda images: (np.zeros((len(images), 2)), None, None))
        names['viz_latent_space'](encoder, (labels, labels))
        plt.gcf().canvas.draw()
        return plt.gcf().axes
    return scatter

@pytest.mark.parametrize('labels, expected', [
    ([3, 70, -2, 70], ['-2', '3', '70']),
    ([0, 1, 2, 255], ['0', '1', '2', '255']),
    ([-1., np.nan, 9999., np.nan], ['-1.0', '9999.0', 'nan']),
    (['seven', 'four', 'seven', 'four'], ['four', 'seven']),
    ([b'zero', 'größe'.encode(), b'\xe9t\xe9', b'zero'], ['größe', 'zero', '\ufffdt\ufffd']),
    ([True, False, True, True], ['False', 'True']),
    (['$\\alpha', '5$ or 6$', '$5', '$a_b$'], ['$5', '$\\alpha', '$a_b$', '5$ or 6$'])])
def test_labels_have_colours_by_rank_and_are_shown_as_they_are(scatter, labels, expected):
    axes, bar = scatter(np.array(labels))
    assert sorted(label.get_text() for label in bar.get_yticklabels()) == sorted(expected)
    assert not any(label.get_parse_math() for label in bar.get_yticklabels())
    # The colours are evenly spaced, and each image has one
    ranks = axes.collections[0].get_array()
    assert len(ranks) == len(labels) and sorted(set(ranks)) == list(range(len(expected)))
    np.testing.assert_array_equal(bar.get_yticks(), range(len(expected)))

@pytest.mark.parametrize('labels', [np.arange(500), np.random.default_rng(1).normal(size=500)])
def test_many_labels_do_not_overlap(scatter, labels):
    _, bar = scatter(labels)
    boxes = [label.get_window_extent() for label in bar.get_yticklabels()]
    assert 5 <= len(boxes) <= 21 and max(box.x1 for box in boxes) <= bar.figure.bbox.x1
    assert all(below.y1 <= above.y0 for below, above in zip(boxes, boxes[1:]))
