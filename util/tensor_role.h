/* tensor_role.h: the roles of tensors, by which optimizers choose their rules. */
#ifndef MARS_UTIL_TENSOR_ROLE_H
#define MARS_UTIL_TENSOR_ROLE_H

/* Bytes of a tensor's name, with the 0 that ends it. */
enum { TENSOR_NAME_LENGTH = 64 };

typedef enum TensorRole {
    ROLE_MATRIX,    /* a hidden layer's 2-D weight, (out, in) as in nn.Linear */
    ROLE_EMBEDDING, /* token and position embeddings, 2-D */
    ROLE_LM_HEAD,   /* the matrix that makes logits, if it is not the token embedding, 2-D */
    ROLE_VECTOR,    /* gains and biases, 1-D */
    ROLE_COUNT
} TensorRole;

#endif
