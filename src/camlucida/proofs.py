"""What is known to hold of methods and metrics, and is tested: sentences by the numbers in the names of the tests.

"A linear head" is global average pooling and one linear layer. What a channel adds to the logit is its average times
its weight in that layer.
"""

IDENTITIES: dict[str, str] = {
    "1": "Where a linear head follows, Grad-CAM is CAM divided by the number of places.",
    "2": "Where a linear head follows, HiResCAM, Grad-CAM and XGrad-CAM are the same map, and so is Ablation-CAM whose "
    "weights are divided by the sum of each channel.",
    "3": "Where a linear head follows, HiResCAM sums to the logit less its bias, and so does CAM, averaged.",
    "4": "Where a linear head follows, LayerCAM is CAM of the positive weights alone, divided by the number of places.",
    "5": "Where a linear head follows, Grad-CAM++ weighs a channel by its positive weight over 2 plus what the channel "
    "adds to the logit; the official variant is proportional to LayerCAM.",
    "6": "Where a linear head follows, LIFT-CAM's weight of a channel is its exact Shapley value: what it adds to the "
    "logit, and what the logit loses without it. With the bias, they sum to the logit.",
    "7": "Where a linear head follows, ReciproCAM of the logit is the bias plus Grad-CAM, and of the probability the "
    "softmax of every place alone.",
    "8": "Where a linear head follows, Grad-CAM of a probability is this probability times the difference between "
    "Grad-CAM of the class and the mean over all classes, weighed by their probabilities.",
    "9": "Where a linear head follows, Finer-CAM is Grad-CAM less γ times the mean of Grad-CAM over the references; "
    "with γ = 0 it is Grad-CAM.",
    "10": "Where a linear head follows, Integrated Grad-CAM has the same weights all along its path. CAPE of all "
    "classes sums to 1, and CAPE of one class to its probability where all places are alike.",
    "11": "Before its first step, Opti-CAM is the mean of the rectified channels, as LaFAM is.",
    "12": "For activations that are not negative, element-wise Grad-CAM is LayerCAM; where no gradient is negative, "
    "LayerCAM is HiResCAM; where gradients are the same everywhere, HiResCAM is Grad-CAM.",
    "13": "XGrad-CAM and HiResCAM both sum to the sum of gradients times activations; Grad-CAM does not.",
    "14": "Grad-CAM is its rectified self less the rectified counterfactual.",
    "15": "Grad-CAM and HiResCAM are linear in the score: the map of a difference is the difference of the maps, and "
    "scaling the score leaves the heat map as it is.",
    "16": "The order of the channels means nothing, and a channel that is split into equal halves leaves CAM, "
    "Grad-CAM, HiResCAM and XGrad-CAM as they are.",
    "17": "In a network that treats all places alike, an image that is shifted around has its map shifted with it.",
    "18": "An image has the same map alone as in a batch.",
    "19": "In a piecewise linear network the score is the image times its gradient plus every bias times its gradient; "
    "without biases HiResCAM, at every ReLU layer, and Gradient x Input sum to it.",
    "20": "For the logit of a piecewise linear network ShapleyCAM is Grad-CAM; for a quadratic head, what it shows of "
    "a channel sums to the exact Shapley value of the channel.",
    "21": "What is integrated along a path sums to the score at its end less the score at its start, up to what the "
    "steps leave over.",
    "22": "Without a ReLU, guided backpropagation and deconvnet are the gradient.",
    "23": "For activations that are not negative, the leading singular vector has one sign; turning the channels "
    "leaves Eigen-CAM as it is; KPCA-CAM with a linear kernel is the first principal component, centred.",
    "24": "Where the activations are one pattern times a vector, every method that weighs channels shows this pattern.",
    "25": "Score-CAM's masks, and so its weights, know neither the scale nor the offset of a channel.",
    "26": "For a linear model and every mask that there is, RISE is a constant plus 1 - p times what each pixel adds.",
    "27": "For a linear model, occluding a patch takes away what the patch adds to the score.",
    "28": "Group-CAM with one group is proportional to Grad-CAM where its mask raises the score, and Poly-CAM with one "
    "layer is Score-CAM but for the percentiles.",
    "29": "Fake-CAM hides one pixel, so that the probability hardly changes. A map that shows everything drops and "
    "gains nothing, and ADCC, which punishes large maps, grades it 0.",
    "30": "For a linear model, and the same base, Insertion and Deletion sum to the scores of the image and of the "
    "base, whatever the order.",
    "31": "For a linear model, the infidelity of its gradient is 0, that gradient never changes under noise, and the "
    "gradient times the input correlates perfectly with what the score loses.",
    "32": "A uniform map has the share of its heat inside a box that the box has of the picture. What looks at the "
    "order of pixels alone is the same for every strictly increasing change of the map.",
    "33": "For a map turned upside down, removing what matters most and what matters least change places. Linear "
    "imputation restores an image that is itself linear, where the border is known.",
}
