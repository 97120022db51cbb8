"""Each cell of the page can be run again, alone or on to the end."""

import numpy as np
import pytest

from helpers import (
    CONFIGURATION,
    DECODER,
    FIGURES,
    LOADING,
    LOSS,
    PREPROCESSING,
    SCATTER,
    TRAINING,
    TRICK,
    VAE,
    Page,
    code_cells,
    fit_number,
    write_mnist,
)

# All that the post's own code leaves behind
NAMES = """
    keras Conv2D Conv2DTranspose Input Flatten Dense Lambda Reshape BatchNormalization Model mnist
    binary_crossentropy K np plt input_train target_train input_test target_test img_width img_height
    batch_size no_epochs validation_split verbosity latent_dim num_channels input_shape i cx x mu sigma
    conv_shape sample_z z encoder d_i o decoder vae_outputs vae kl_reconstruction_loss viz_latent_space
    viz_decoded data
""".split()


@pytest.fixture
def page(mnist, tmp_path):
    """The page after a whole run of one epoch, of two steps."""
    write_mnist(tmp_path, mnist, 320, 100)
    return Page(tmp_path, no_epochs=1).run()


def steps(page):
    """How many steps the network has been trained."""
    return page['K'].get_value(page['vae'].optimizer.iterations)


def check(page):
    """What holds after every run, whichever cells were run again before."""
    assert set(NAMES) <= set(page.names)
    assert page['input_train'].shape == (320, 28, 28, 1)
    assert page['input_train'].dtype == 'float32'
    assert (page['input_train'].min(), page['input_train'].max()) == (0, 1)
    assert page['conv_shape'] == (None, 7, 7, 16)
    counts = [page[name].count_params() for name in ('encoder', 'decoder', 'vae')]
    assert counts == [17208, 9137, 26345]
    assert np.isfinite(page['test_loss'])


def test_each_cell_alone(page):
    for number, (heading, _) in enumerate(code_cells()):
        page.run_cell(number)
        if heading == LOADING:  # leaves raw images, as the post's does
            page.run(first=PREPROCESSING, last=PREPROCESSING)
        check(page)
    assert len((page.output / 'history.csv').read_text().splitlines()) == 1 + 1

    # Run once more, the training goes on
    page.run_cell(fit_number(page.sources))
    assert steps(page) == 2 + 2
    assert len((page.output / 'history.csv').read_text().splitlines()) == 1 + 2

    # Also with other settings, of which only the changed cell is run
    page.set('no_epochs', 3)
    page.set('batch_size', 64)
    page.run_cell(page.cells_under(CONFIGURATION)[0])
    page.run_cell(fit_number(page.sources))
    assert steps(page) == 2 + 2 + 3 * 4
    assert len((page.output / 'history.csv').read_text().splitlines()) == 1 + 2 + 3


@pytest.mark.parametrize(
    'headings',
    [[LOADING], [TRICK, DECODER], [VAE, LOSS, TRAINING, SCATTER, FIGURES]],
    ids=['new training', 'new layers', 'no new layers'],
)
def test_from_a_heading_on_to_the_end(page, headings):
    """A new training begins, the network goes on training, or nothing is trained."""
    first = page['vae'].history.history['loss'][0]
    for heading in reversed(headings):
        page.run(first=heading)
        check(page)
        loss = page['vae'].history.history['loss'][0]
        if heading == LOADING:
            assert loss == pytest.approx(first, rel=1e-3)
        elif heading in [VAE, LOSS, TRAINING]:
            assert loss < first - 10
        assert steps(page) == 2
