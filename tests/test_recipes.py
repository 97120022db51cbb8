"""The cells of README, gallery and recipes, as they stand there.

They run below the page, which has the reference's weights and 500 test digits. To add one, add a row to
CELLS.
"""

import re
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from helpers import GALLERY, README, RECIPES, WEIGHTS, Page, block, edited, write_mnist


@pytest.fixture(scope='module')
def drawn_page(mnist, tmp_path_factory):
    """The page after a run with the reference's weights; each cell of the documents runs below it."""
    folder = tmp_path_factory.mktemp('recipes')
    write_mnist(folder, mnist, 100, 500)
    np.save(folder / 'new_images.npy', mnist['x_test'][:10])
    page = Page(folder, no_epochs=0, weights=str(WEIGHTS)).run()
    plt.close('all')
    return page


def shown():
    """The image that was drawn last, or the first of it."""
    return plt.gcf().axes[0].images[0].get_array()


def is_decoded_well(page):
    return 0.01 < np.abs(page['decoded'] - page['input_test'][:10]).mean() < 0.1


def has_the_points_of_the_test(page):
    mu, _, _ = page['encoder'].predict(page['input_test'][:10])
    return np.allclose(page['points'], mu, atol=1e-5)


def are_the_oddest(page):
    worst = np.sort(page['errors'])[-10:]
    return np.array_equal(page['errors'][page['oddest']], worst) and shown().shape[:2] == (28, 280)


def has_a_legend_of_ten(page):
    return [text.get_text() for text in plt.gca().get_legend().get_texts()] == list('0123456789')


def has_both_parts(page):
    recalculated = page['vae'].evaluate(page['input_test'], page['input_test'], verbose=0)
    mu, sigma, _ = page['encoder'].predict(page['input_test'])
    kl = np.mean(np.sum(mu**2 + np.exp(sigma) - sigma - 1, axis=1)) / 2
    return np.isclose(page['test_kl'], kl) and abs(page['test_loss'] - recalculated) < 3


def walks(page):
    file = page.folder / 'walk.gif'
    with Image.open(file) as animation:
        return animation.n_frames == 32 and file.stat().st_size < 400_000


def is_zoomed(page):
    return plt.gcf().axes[0].axis() == (-4, 4, -4, 4)


# The document, a text that the block has, and what must hold after it
CELLS = [
    (README, 'normal(size=(10', lambda page: shown().shape[:2] == (28, 280)),
    (README, 'input_test[:10]', is_decoded_well),
    (README, 'new_images', has_the_points_of_the_test),
    (RECIPES, '[30.0, 30.0]', lambda page: shown().shape[:2] == (28, 84)),
    (RECIPES, 'test_kl = ', has_both_parts),
    (RECIPES, 'oddest = ', are_the_oddest),
    (RECIPES, 'np.unique(target_test)', has_a_legend_of_ten),
    (RECIPES, 'FuncAnimation', walks),
    (GALLERY, 'plt.axis', is_zoomed),
]


@pytest.mark.parametrize('document, text, holds', [pytest.param(*row, id=row[1]) for row in CELLS])
def test_cell(drawn_page, document, text, holds):
    drawn_page.run_code(block(document, text))
    assert holds(drawn_page)


def test_a_point_of_the_second_experiment(drawn_page):
    """The line within the text of the README."""
    (line,) = re.findall(r'`(plt\.imshow\(decoder\.predict\(.*\)\[0\]\))`', README.read_text())
    drawn_page.run_code(line)
    assert shown().shape[:2] == (28, 28)


def test_encoder_and_decoder_in_another_program(drawn_page):
    drawn_page.run_code(block(RECIPES, "decoder.save('decoder.h5')"))
    program = block(RECIPES, "load_model('encoder.h5'") + 'np.savez("results.npz", points, images)'
    program = edited(program, 'np.zeros((1, 28, 28, 1))', "np.load('input.npy')")
    np.save(drawn_page.folder / 'input.npy', drawn_page['input_test'][:5])
    subprocess.run([sys.executable, '-c', program], cwd=drawn_page.folder, check=True, capture_output=True)
    with np.load(drawn_page.folder / 'results.npz') as results:
        points, images = results['arr_0'], results['arr_1']
    np.testing.assert_allclose(
        points, drawn_page['encoder'].predict(drawn_page['input_test'][:5])[0], atol=1e-4
    )
    np.testing.assert_allclose(images, drawn_page['decoder'].predict(points), atol=1e-4)


def test_weights_for_the_encoder(drawn_page):
    """The recipe says that they have to be loaded into vae."""
    encoder = drawn_page['encoder']
    before = encoder.get_weights()
    zeros = [0 * array for array in before]
    encoder.set_weights(zeros)
    encoder.load_weights(WEIGHTS, by_name=True)
    assert not any(array.any() for array in encoder.get_weights())
    drawn_page['vae'].load_weights(WEIGHTS)
    assert all(map(np.array_equal, encoder.get_weights(), before))
