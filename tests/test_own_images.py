"""Any stack of images in MNIST's place: each set is trained on for a moment and drawn."""
import matplotlib.pyplot as plt
import numpy as np
import pytest

import variational_autoencoder as script

GRID = np.linspace(-4, 4, 15)


def images(mnist, height, width, channels=None):
    """Digits in the middle of height by width pixels; in colour, a channel each for three of them."""
    digits = np.pad(mnist['x_train'][:700], [(0, 0), (40, 40), (40, 40)])
    top, left = 54 - height // 2, 54 - width // 2
    digits = digits[:, top:top + height, left:left + width]
    return np.stack([digits[:240], digits[240:480], digits[450:690]], axis=3) if channels == 3 else digits[:240]


def train(tmp_path, stack, **more):
    np.savez(tmp_path / 'images.npz', x_train=stack[:200], x_test=stack[200:], **more)
    return script.main(['--data', str(tmp_path / 'images.npz'), '--epochs', '1', '--output-dir', str(tmp_path / 'out')])


def check_grid(encoder, decoder, height, width, colour):
    script.viz_decoded(encoder, decoder, None)
    axes, = script.plt.gcf().axes
    image = np.asarray(axes.images[0].get_array())
    assert image.shape == (15 * height, 15 * width) + (3,) * colour
    for r, c in [(0, 0), (0, 14), (14, 0), (3, 11), (7, 7)]:
        tile = image[r * height:(r + 1) * height, c * width:(c + 1) * width]
        decoded = decoder.predict(np.array([[GRID[c], GRID[14 - r]]]))[0]
        np.testing.assert_allclose(tile, decoded if colour else decoded[..., 0], atol=1e-5)
    np.testing.assert_array_equal(axes.get_xticks(), [width // 2 + k * width for k in range(15)])
    np.testing.assert_array_equal(axes.get_yticks(), [height // 2 + k * height for k in range(15)])


@pytest.mark.parametrize('height, width, channels', [
    pytest.param(20, 36, None, id='grey, not square'),
    pytest.param(30, 25, 3, id='colour, not divisible by four'),
    pytest.param(100, 100, None, id='the 100 by 100 of the comments')])
def test_sizes_and_colours(mnist, tmp_path, height, width, channels):
    stack = images(mnist, height, width, channels)
    encoder, decoder, vae = train(tmp_path, stack, y_test=mnist['y_train'][200:240])
    assert vae.output_shape == (None, height, width, channels or 1)
    check_grid(encoder, decoder, height, width, colour=channels == 3)
    for name in ('latent_space', 'decoded_digits'):
        assert plt.imread(tmp_path / 'out' / f'{name}.png').std() > 0.05


def test_without_labels(mnist, tmp_path):
    encoder, _, _ = train(tmp_path, images(mnist, 28, 28))
    script.viz_latent_space(encoder, (script.preprocess(images(mnist, 28, 28)), None))
    axes, = plt.gcf().axes  # no colour bar
    assert len(axes.collections[0].get_facecolor()) == 1


class OnePlace:
    """An encoder that puts everything at (0, 0)."""
    def predict(self, images):
        return np.zeros((len(images), 2)), None, None


@pytest.mark.parametrize('labels, shown', [
    (np.array([[3], [70], [-2], [70]]), ['-2', '3', '70']),
    (np.array(['seven', 'four', 'seven', 'four']), ['four', 'seven']),
    (np.array([True, False, True, True]), ['False', 'True'])])
def test_other_labels(labels, shown):
    labels = labels.reshape(-1)
    script.viz_latent_space(OnePlace(), (labels, labels))
    figure = plt.gcf()
    figure.canvas.draw()
    assert [label.get_text() for label in figure.axes[1].get_yticklabels()] == shown
    assert len(set(figure.axes[0].collections[0].get_array())) == len(shown)


@pytest.mark.parametrize('labels', [np.arange(500), np.random.default_rng(1).normal(size=500)])
def test_many_labels_do_not_overlap(labels):
    script.viz_latent_space(OnePlace(), (labels, labels))
    figure = plt.gcf()
    figure.canvas.draw()
    bar = figure.axes[1]
    low, high = bar.get_ylim()
    boxes = [label.get_window_extent() for place, label in zip(bar.get_yticks(), bar.get_yticklabels())
             if low <= place <= high]
    assert 5 <= len(boxes) <= 21
    assert all(below.y1 <= above.y0 for below, above in zip(boxes, boxes[1:]))
    assert max(box.x1 for box in boxes) <= figure.bbox.x1


@pytest.mark.parametrize('label', ['Smileys-Emotion', 'a label of no fewer than forty-five characters', '$5 or $a_b$'])
def test_no_label_is_cut_off(label):
    labels = np.array([label, 'x'])
    script.viz_latent_space(OnePlace(), (labels, labels))
    figure = plt.gcf()
    figure.canvas.draw()
    assert label in [text.get_text() for text in figure.axes[1].get_yticklabels()]
    for axes in figure.axes:
        box = axes.get_tightbbox()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
    assert figure.axes[0].bbox.width > 250


def test_images_that_are_not_square_reach_the_network_as_they_are(mnist):
    """The post re-reads them row by row at the wrong width."""
    stack = images(mnist, 20, 36)
    scaled = script.preprocess(stack)
    np.testing.assert_array_equal(scaled[..., 0], stack / np.float32(255))
    encoder, conv_shape = script.create_encoder(scaled.shape[1:])
    assert encoder.input_shape == (None, 20, 36, 1) and conv_shape == (None, 5, 9, 16)


@pytest.mark.parametrize('kind', ['uint8', 'uint16', 'int64', 'float32', 'float64'])
def test_kinds_of_numbers(mnist, kind):
    expected = mnist['x_train'][:50].astype('float32')[..., np.newaxis] / 255
    stack = mnist['x_train'][:50] / (1 if 'int' in kind else 255)
    scaled = script.preprocess(stack.astype(kind))
    assert scaled.dtype == 'float32' and scaled.shape == (50, 28, 28, 1)
    np.testing.assert_allclose(scaled, expected, rtol=1e-6)
    np.testing.assert_array_equal(script.preprocess(stack.astype(kind)[..., np.newaxis]), scaled)


def test_black_and_white():
    np.testing.assert_array_equal(script.preprocess(np.array([[[True, False]]])), [[[[1], [0]]]])


def test_labels_in_a_column(mnist, tmp_path):
    """As in CIFAR; what else an .npz file holds does not matter."""
    np.savez(tmp_path / 'images.npz', x_train=mnist['x_train'][:20], x_test=mnist['x_test'][:20],
             y_test=mnist['y_test'][:20, np.newaxis], names=np.array(['a', None], dtype=object))
    _, (_, target_test) = script.load_images(tmp_path / 'images.npz')
    np.testing.assert_array_equal(target_test, mnist['y_test'][:20])
