"""The few things that tests say in the words of whichever framework Keras runs on.

gradient(function, x)   of the sum of what `function` makes of `x`, by the framework's own differentiation
relu, softmax, average  what people write between layers of subclassed models; `average` is over locations (h, w)
doubled(x)              images of twice the size, by an operation that is told the size at run time
observed(x, see)        `x` itself; `see` gets its values each time that it is computed, not when it is traced
condition(model)        what the framework keeps of a model beside its weights, to be compared with itself
"""

import keras

BACKEND = keras.config.backend()

if BACKEND == "tensorflow":
    import tensorflow as tf

    relu, softmax = tf.nn.relu, tf.nn.softmax

    def gradient(function, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return tf.convert_to_tensor(tape.gradient(y, x))

    def average(x):
        return tf.reduce_mean(x, axis=[1, 2])

    def doubled(x):
        return tf.image.resize(x, tf.shape(x)[1:3] * 2)

    def observed(x, see):
        y = tf.numpy_function(lambda x: [see(x), x][1], [x], x.dtype)
        y.set_shape(x.shape)
        return y

    def condition(model):
        return None

elif BACKEND == "jax":
    import jax
    import jax.numpy as jnp

    relu, softmax = jax.nn.relu, jax.nn.softmax

    def gradient(function, x):
        return jax.grad(lambda x: jnp.sum(function(x)))(x)

    def average(x):
        return jnp.mean(x, axis=(1, 2))

    def doubled(x):
        return jax.image.resize(x, (len(x), 2 * x.shape[1], 2 * x.shape[2], x.shape[3]), "linear")

    def observed(x, see):
        return jax.pure_callback(lambda x: [see(x), x][1], jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    def condition(model):
        return None

else:
    import torch

    def relu(x):
        return torch.relu(x)

    def softmax(x):
        return torch.softmax(x, -1)

    def gradient(function, x):
        x = x.detach().requires_grad_()
        return torch.autograd.grad(function(x).sum(), x)[0]

    def average(x):
        return torch.mean(x, dim=(1, 2))

    def doubled(x):
        big = torch.nn.functional.interpolate(x.movedim(-1, 1), scale_factor=2, mode="bilinear")
        return big.movedim(1, -1)

    def observed(x, see):
        if x.device.type != "meta":
            see(x)
        return x

    def condition(model):
        parameters = [variable.value for variable in model.variables]
        return {
            "parameters": [(id(p), p.requires_grad, p.grad is None) for p in parameters],
            "modules": [
                (id(m), m.training, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
                for m in model.modules()
            ],
            "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        }
