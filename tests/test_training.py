"""A short training on real digits, and the figures drawn from it."""
import csv

import matplotlib.pyplot as plt
import numpy as np
import pytest

import variational_autoencoder as script


@pytest.fixture(scope='module')
def trained(mnist, tmp_path_factory):
    """main() as a whole, 12 epochs on 4,000 digits: the models and the folder."""
    folder = tmp_path_factory.mktemp('trained')
    np.savez(folder / 'slice.npz', x_train=mnist['x_train'][:4000],
             x_test=mnist['x_test'][:1000], y_test=mnist['y_test'][:1000])
    (folder / 'latent_space_zoom.png').write_text('an earlier run drew this')
    models = script.main(['--data', str(folder / 'slice.npz'), '--epochs', '12', '--output-dir', str(folder)])
    return models, folder


@pytest.fixture(scope='module')
def data(mnist):
    return script.preprocess(mnist['x_test'][:1000]), mnist['y_test'][:1000]


def test_loss_falls(trained):
    with open(trained[1] / 'history.csv') as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert [row['epoch'] for row in rows] == list(range(12))
    assert rows[-1]['loss'] < 0.5 * rows[0]['loss']
    assert rows[-1]['val_loss'] < 0.5 * rows[0]['val_loss']
    for row in rows:
        for prefix in ('', 'val_'):
            parts = row[prefix + 'reconstruction_loss'] + row[prefix + 'kl_loss']
            assert row[prefix + 'loss'] == pytest.approx(parts, rel=1e-5)


def test_digits_of_a_class_are_near_each_other(trained, data):
    mu, _, _ = trained[0][0].predict(data[0])
    distances = np.linalg.norm(mu[:, np.newaxis] - mu, axis=2)
    same = data[1][:, np.newaxis] == data[1]
    assert distances[same].mean() < 0.7 * distances[~same].mean()


def test_scatter(trained, data):
    encoder = trained[0][0]
    mu, _, _ = encoder.predict(data[0])
    script.viz_latent_space(encoder, data)
    figure = plt.gcf()
    axes, colour_bar = figure.axes
    points = axes.collections[0]
    np.testing.assert_allclose(points.get_offsets(), mu, rtol=1e-6)
    np.testing.assert_array_equal(points.get_array(), data[1])
    assert points.get_cmap().name == 'viridis'
    assert (axes.get_xlabel(), axes.get_ylabel()) == ('z - dim 1', 'z - dim 2')
    assert tuple(figure.get_size_inches()) == (8, 10)
    assert [label.get_text() for label in colour_bar.get_yticklabels()] == list('0123456789')
    outside = np.any(np.abs(mu) > 4)
    assert script.viz_zoom(encoder, data) == outside
    zoomed = trained[1] / 'latent_space_zoom.png'
    assert zoomed.exists() == outside
    if outside:
        assert zoomed.read_bytes().startswith(b'\x89PNG')


def test_scatter_zooms_where_digits_lie_outside(trained, data):
    class FarOff:
        """An encoder that puts everything where the trained one does, but for three images."""
        def predict(self, images):
            mu = np.clip(trained[0][0].predict(images)[0], -4, 4)
            mu[:3] = [[-9, 0], [1, 5], [4, 4.01]]
            return mu, None, None

    script.viz_latent_space(FarOff(), data)
    assert plt.gcf().axes[0].get_xlim()[0] < -9
    assert script.viz_zoom(FarOff(), data)
    axes = plt.gcf().axes[0]
    assert axes.get_xlim() == axes.get_ylim() == (-4, 4)
    assert axes.get_title() == '3 of 1,000 lie outside'


def test_grid(trained, data):
    encoder, decoder, _ = trained[0]
    script.viz_decoded(encoder, decoder, data)
    figure = plt.gcf()
    axes, = figure.axes
    image = axes.images[0].get_array()
    assert image.shape == (15 * 28, 15 * 28)
    assert axes.images[0].get_cmap().name == 'viridis'
    assert tuple(figure.get_size_inches()) == (10, 10)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ('z - dim 1', 'z - dim 2')
    columns, rows = ([float(label.get_text()) for label in labels]
                     for labels in (axes.get_xticklabels(), axes.get_yticklabels()))
    assert (len(columns), columns[0], columns[-1]) == (15, -4, 4)
    assert (len(rows), rows[0], rows[-1]) == (15, 4, -4)
    # Every tick names the latent point, to one decimal, of the tile that it stands at the middle of
    exact = np.linspace(-4, 4, 15)
    for y, row in zip(axes.get_yticks(), rows):
        for x, column in zip(axes.get_xticks(), columns):
            assert (x % 28, y % 28) == (14, 14)
            point = [exact[np.abs(exact - column).argmin()], exact[np.abs(exact - row).argmin()]]
            assert np.allclose(point, [column, row], atol=0.051)
            r, c = int(y) // 28 * 28, int(x) // 28 * 28
            if r == c or r == 28 or c == 56:
                np.testing.assert_allclose(
                    image[r:r + 28, c:c + 28], decoder.predict(np.array([point]))[0, :, :, 0], atol=1e-5)
    assert axes.get_ylim() == (15 * 28 - 0.5, -0.5)  # the first row is at the top
