"""Images of one's own in the place of MNIST, with and without labels."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from conftest import LOSS, Page, check_grid

IMAGES = 'Data preprocessing'
VISUALIZERS = 'Calling the visualizers'


def page_of(folder, **arrays):
    """The page with these arrays in the place of MNIST."""
    path = folder / 'images.npz'
    np.savez(path, **arrays)
    return Page(folder, data=str(path), epochs=1, batch_size=16)


@pytest.mark.parametrize('height, width, channels', [(20, 36, 1), (30, 25, 3), (3, 2, 1)])
def test_sizes_and_colours(mnist, tmp_path, height, width, channels):
    """From the file to the grid, each pixel stays where it is."""
    images = mnist['x_train'][: 60 * channels]
    images = np.stack(np.split(images, channels), axis=3)
    images = np.pad(images, [(0, 0), (4, 4), (4, 4), (0, 0)])
    top, left = 18 - height // 2, 18 - width // 2
    images = images[:, top : top + height, left : left + width]
    page = page_of(tmp_path, x_train=images[:40], x_test=images[40:])
    page.run(last=VISUALIZERS)
    np.testing.assert_allclose(page['input_train'], images[:40] / 255, rtol=1e-6)
    assert page['vae'].output_shape == (None, height, width, channels)

    check_grid(page)


@pytest.mark.parametrize('kind', ['uint8', 'uint16', 'int64', 'float16', 'float32', 'float64', 'bool'])
def test_kinds_of_numbers(mnist, tmp_path, kind):
    images = mnist['x_train'][:20]
    if kind == 'bool':
        images = images > 127
    elif kind.startswith('float'):
        images = images / 255
    images = images.astype(kind)
    page = page_of(tmp_path, x_train=images, x_test=images).run(last=IMAGES)
    white = 255 if kind in ('uint8', 'uint16', 'int64') else 1
    expected = images.astype('float64') / white
    assert page['input_train'].dtype == 'float32'
    np.testing.assert_allclose(page['input_train'][:, :, :, 0], expected, rtol=1e-3)
    np.testing.assert_array_equal(page['input_test'], page['input_train'])


def test_preprocessing_again_changes_nothing(mnist, tmp_path):
    images = mnist['x_train'][:20]
    page = page_of(tmp_path, x_train=images, x_test=images).run(last=IMAGES)
    once = page['input_train']
    page.run(first='Model configuration', last=IMAGES)
    np.testing.assert_array_equal(page['input_train'], once)


def test_labels_in_a_column(mnist, tmp_path):
    """As those of CIFAR-10 are."""
    images, labels = mnist['x_train'][:20], mnist['y_train'][:20]
    page = page_of(tmp_path, x_train=images, x_test=images, y_test=labels[:, np.newaxis])
    page.run(last='Loading data')
    np.testing.assert_array_equal(page['target_test'], labels)


@pytest.fixture(scope='module')
def page(digits, tmp_path_factory):
    """The page with the digits, ready to draw."""
    page = Page(tmp_path_factory.mktemp('labels'), data=digits)
    page.run(last=LOSS)
    return page.run(
        first='Visualizing inputs mapped onto latent space',
        last='Visualizing samples from the latent space',
    )


@pytest.mark.parametrize(
    'labels, names',
    [
        ([3, 70, -2, 70], ['-2', '3', '70']),
        (['seven', 'four', 'seven', 'größe'], ['four', 'größe', 'seven']),
        ([True, False, True, True], ['False', 'True']),
        ([0.5, 2.5, 0.5, 0.5], ['0.5', '2.5']),
    ],
)
def test_labels(page, labels, names):
    """Each has a colour of its own, by its rank, and its name beside the colour bar."""
    page['viz_latent_space'](page['encoder'], (page['input_test'][:4], np.array(labels)))
    scatter, colour_bar = plt.gcf().axes
    assert [label.get_text() for label in colour_bar.get_yticklabels()] == names
    ranks = scatter.collections[0].get_array()
    assert [names[int(rank)] for rank in ranks] == [str(label) for label in labels]


def test_many_labels_do_not_overlap(page):
    page['viz_latent_space'](page['encoder'], (page['input_test'][:200], np.arange(200)))
    figure = plt.gcf()
    figure.canvas.draw()
    boxes = [label.get_window_extent() for label in figure.axes[1].get_yticklabels()]
    assert 10 <= len(boxes) <= 20
    assert all(below.y1 <= above.y0 for below, above in zip(boxes, boxes[1:]))


def test_no_labels(page):
    page['viz_latent_space'](page['encoder'], (page['input_test'], None))
    assert len(plt.gcf().axes) == 1
    assert (page.folder / 'latent_space.png').exists()
